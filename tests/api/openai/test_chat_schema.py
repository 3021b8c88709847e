"""What fields of a chat mean."""

import pytest

from api.openai.schemas.chat import ChatRequest


def request(**fields: object) -> ChatRequest:
    return ChatRequest.model_validate({"messages": [{"role": "user", "content": "Hi"}], **fields})


@pytest.mark.parametrize(
    ("fields", "thinks"),
    [
        ({}, None),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "low"}, True),
        ({"chat_template_kwargs": {}}, None),
        ({"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "high"}, False),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
    ],
)
def test_whether_the_model_shall_think(fields: dict, thinks: bool | None):
    assert request(**fields).thinks is thinks


def test_llama_cpps_names_of_fields():
    params = request(repeat_penalty=1.5, n_predict=7).sampling_params()
    assert (params.repetition_penalty, params.max_tokens) == (1.5, 7)
    assert request(n_predict=-1).sampling_params().max_tokens is None
