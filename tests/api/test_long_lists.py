"""A long list with errors is refused at the first, in all dialects."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from ggserve.api.llama_server.schemas import DetokenizeRequest
from ggserve.api.ollama.schemas import GenerateRequest
from ggserve.api.openai.schemas.completions import CompletionRequest
from ggserve.api.openai.schemas.embeddings import EmbeddingsRequest


@pytest.mark.parametrize(
    ("schema", "field", "item"),
    [
        (CompletionRequest, "prompt", -1),
        (CompletionRequest, "prompt", [-1]),
        (EmbeddingsRequest, "input", -1),
        (DetokenizeRequest, "tokens", "a"),
        (GenerateRequest, "context", "a"),
    ],
)
def test_the_first_error_of_a_long_list_is_enough(schema: type[BaseModel], field: str, item: Any) -> None:
    with pytest.raises(ValidationError) as raised:
        schema.model_validate({field: [item] * 10_000})
    assert raised.value.error_count() < 10


def test_token_ids_are_no_texts_on_the_first_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A union tries its members one after the other: a list of numbers is no list of texts by its first item."""
    assert CompletionRequest.model_validate({"prompt": [5] * 10_000}).prompts == [[5] * 10_000]
