"""The structure that the fields of a request give to its answer."""

import pytest
from pydantic import ValidationError

from ggserve.api.openai.schemas.completions import CompletionRequest


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"guided_json": {"type": "integer"}}, "json_schema"),
        ({"guided_regex": "a+"}, "regex"),
        ({"guided_choice": ["a", "b"]}, "choice"),
        ({"guided_grammar": 'start: "a"'}, "lark"),
        ({"grammar": 'root ::= "a"'}, "gbnf"),
        ({"structured_outputs": {"json": {"type": "integer"}}}, "json_schema"),
        ({"structured_outputs": {"choice": ["a"]}}, "choice"),
    ],
)
def test_each_field_is_one_kind(fields: dict, kind: str):
    grammar = CompletionRequest.model_validate({"prompt": "x", **fields}).sampling_params().grammar
    assert grammar is not None
    assert grammar.kind == kind


@pytest.mark.parametrize(
    "fields",
    [{"guided_choice": []}, {"guided_choice": [5]}, {"guided_regex": 5}, {"guided_regex": "a", "grammar": "b"}],
)
def test_wrong_types_and_several_at_once_are_refused(fields: dict):
    with pytest.raises(ValidationError):
        CompletionRequest.model_validate({"prompt": "x", **fields})


def test_without_one_nothing_is_held():
    assert CompletionRequest.model_validate({"prompt": "x"}).sampling_params().grammar is None
