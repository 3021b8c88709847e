"""The meaning of a chat's fields."""

import pytest

from ggserve.api.openai.schemas.chat import ChatRequest


def request(**fields: object) -> ChatRequest:
    return ChatRequest.model_validate({"messages": [{"role": "user", "content": "Hi"}], **fields})


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, {}),
        ({"reasoning_effort": "none"}, {"enable_thinking": False}),
        ({"reasoning_effort": "low"}, {"enable_thinking": True, "reasoning_effort": "low"}),
        ({"chat_template_kwargs": {}}, {}),
        (
            {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "high"},
            {"enable_thinking": False, "reasoning_effort": "high"},
        ),
        ({"chat_template_kwargs": {"enable_thinking": True}}, {"enable_thinking": True}),
        (
            {"chat_template_kwargs": {"thinking_budget": 9, "documents": [{"title": "A"}]}},
            {"thinking_budget": 9, "documents": [{"title": "A"}]},
        ),
    ],
)
def test_what_the_chat_template_is_told(fields: dict, told: dict):
    assert request(**fields).template_arguments == told


def test_llama_cpps_names_of_fields():
    params = request(repeat_penalty=1.5, n_predict=7).sampling_params()
    assert (params.repetition_penalty, params.max_tokens) == (1.5, 7)
    assert request(n_predict=-1).sampling_params().max_tokens is None
