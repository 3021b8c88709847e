"""A long list with errors is rejected at the first error, in all dialects."""

import sys
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from ggserve.api.llama_server.schemas import DetokenizeRequest, NativeRequest
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
    """A union tries its members one after the other: the first item shows that a list of numbers is not a list of
    texts."""
    assert CompletionRequest.model_validate({"prompt": [5] * 10_000}).prompts == [[5] * 10_000]


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        (CompletionRequest, "prompt"),
        (EmbeddingsRequest, "input"),
        (DetokenizeRequest, "tokens"),
        (NativeRequest, "prompt"),
        (CompletionRequest, "allowed_token_ids"),
    ],
)
def test_no_python_runs_for_each_token_id(schema: type[BaseModel], field: str) -> None:
    """A list of 190,000 ids would hold up every other request for a third of a second."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    body = {"prompt": "a", field: [5] * 10_000}
    schema.model_validate(body)  # builds the validator
    sys.setprofile(count)
    try:
        schema.model_validate(body)
    finally:
        sys.setprofile(None)
    assert calls < 1000


def test_whole_floats_are_token_ids() -> None:
    """Some languages' JSON cannot write a whole number otherwise."""
    assert CompletionRequest.model_validate({"prompt": [5.0, 6]}).prompts == [[5, 6]]
    assert NativeRequest.model_validate({"prompt": ["a", 5.0]}).prompts == [["a", 5]]
    assert CompletionRequest.model_validate({"prompt": "a", "logit_bias": [[5.0, 1]]}).sampling_params().logit_bias == {
        5: 1
    }
    with pytest.raises(ValidationError):
        CompletionRequest.model_validate({"prompt": [5.5]})
