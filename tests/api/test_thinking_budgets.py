"""The thinking budget in each dialect."""

from typing import Any

import pytest
from pydantic import ValidationError

from ggserve.api.anthropic.schemas import MessagesRequest
from ggserve.api.ollama.schemas import ChatRequest as OllamaChat
from ggserve.api.openai.responses.schemas import ResponsesRequest
from ggserve.api.openai.schemas.chat import ChatRequest

MESSAGES = [{"role": "user", "content": "Hi"}]
BODIES: dict[Any, dict[str, Any]] = {
    ChatRequest: {"messages": MESSAGES},
    ResponsesRequest: {"input": "Hi"},
    MessagesRequest: {"messages": MESSAGES, "max_tokens": 99},
    OllamaChat: {"messages": MESSAGES},
}


def budget(request: Any, fields: dict[str, Any]) -> int | None:
    tokens: int | None = request.model_validate({**BODIES[request], **fields}).sampling_params().thinking_budget
    return tokens


@pytest.mark.parametrize(
    ("request_type", "fields", "tokens"),
    [
        (ChatRequest, {}, None),
        (ChatRequest, {"reasoning_effort": "none"}, 0),
        (ChatRequest, {"reasoning_effort": "minimal"}, 128),
        (ChatRequest, {"reasoning_effort": "low"}, 512),
        (ChatRequest, {"reasoning_effort": "max"}, None),
        (ChatRequest, {"thinking_budget_tokens": 7, "reasoning_effort": "high"}, 7),
        (ChatRequest, {"reasoning_budget": 0}, 0),
        (ChatRequest, {"reasoning_budget": -1}, None),
        (ResponsesRequest, {"reasoning": {"effort": "medium"}}, 2048),
        (ResponsesRequest, {"reasoning": {"effort": "max"}}, None),
        (MessagesRequest, {"thinking": {"type": "enabled", "budget_tokens": 1024}}, 1024),
        (MessagesRequest, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, 512),
        (MessagesRequest, {"output_config": {"effort": "max"}}, None),
        (MessagesRequest, {"thinking": {"type": "enabled", "budget_tokens": 5}, "output_config": {"effort": "low"}}, 5),
        (OllamaChat, {"think": "low"}, 512),
        (OllamaChat, {"think": "max"}, None),
        (OllamaChat, {"think": True}, None),
        (OllamaChat, {}, None),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_dialect_says_how_long_a_thought_may_be(request_type: Any, fields: dict[str, Any], tokens: int | None):
    assert budget(request_type, fields) == tokens


@pytest.mark.parametrize(
    ("request_type", "fields"),
    [
        (ChatRequest, {"thinking_budget_tokens": -2}),
        (ChatRequest, {"thinking_budget_tokens": "many"}),
        (ChatRequest, {"reasoning_effort": "deep"}),
        (MessagesRequest, {"thinking": {"type": "enabled", "budget_tokens": -1}}),
    ],
)
def test_what_is_no_budget_is_refused(request_type: Any, fields: dict[str, Any]):
    with pytest.raises(ValidationError):
        budget(request_type, fields)


def test_ollama_s_efforts_reach_the_template():
    def told(think: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = OllamaChat.model_validate({"messages": MESSAGES, "think": think}).template_arguments
        return arguments

    assert told("low") == {"enable_thinking": True, "reasoning_effort": "low"}
    assert told("none") == told(False) == {"enable_thinking": False}
