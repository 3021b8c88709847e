"""Histories as coding agents send them: nulls, hosted tools, free-text tools, and images for a model without vision."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import ValidationError

from ggserve.api.anthropic.conversation import conversation
from ggserve.api.anthropic.schemas import MessagesRequest
from ggserve.api.errors import APIError
from ggserve.api.features import visible
from ggserve.api.ollama.schemas import ChatRequest as OllamaRequest
from ggserve.api.openai.responses.conversation import chat_messages
from ggserve.api.openai.responses.items import ITEM
from ggserve.api.openai.responses.schemas import ResponsesRequest
from ggserve.api.openai.responses.writer import ResponseWriter
from ggserve.api.openai.schemas.chat import ChatRequest
from ggserve.generation import SamplingParams
from ggserve.messages import ToolCallDelta
from ggserve.model.gguf_model import GGUFModel
from tests.api.streams import delta, events, whole

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
URL = f"data:image/png;base64,{PIXEL}"
NULLS = {"type": "object", "properties": {"a": {"type": "string", "description": None}}, "required": None}
CLEAN = {"type": "object", "properties": {"a": {"type": "string"}}}


def model(*features: str) -> GGUFModel:
    return cast(GGUFModel, SimpleNamespace(name="m", features=frozenset(("generation", *features))))


def responses_messages(*items: dict[str, Any]) -> list[dict[str, Any]]:
    return chat_messages(None, [ITEM.validate_python(item) for item in items])


def test_nulls_that_mean_nothing_are_accepted_in_every_dialect() -> None:
    function = {"name": "f", "description": None, "parameters": NULLS}
    user = {"role": "user", "content": "Hi"}
    chat = ChatRequest.model_validate({"messages": [user], "tools": [{"type": "function", "function": function}]})
    messages = MessagesRequest.model_validate(
        {"max_tokens": 1, "messages": [user], "tools": [{"name": "f", "description": None, "input_schema": NULLS}]}
    )
    ollama = OllamaRequest.model_validate({"messages": [user], "tools": [{"type": "function", "function": function}]})
    responses = ResponsesRequest.model_validate({"input": "Hi", "tools": [{"type": "function", **function}]})
    for request in (chat, messages, ollama, responses):
        assert request.called_tools is not None
        assert request.called_tools.functions[0]["function"]["parameters"] == CLEAN
    named = ChatRequest.model_validate({"messages": [{**user, "name": None, "reasoning_content": None}]})
    assert named.messages[0].template_message() == user
    assert responses_messages(
        {"type": "reasoning", "id": "r1", "summary": None}, {"role": "user", "content": "Hi"}
    ) == [user]


def test_a_null_that_is_a_value_stays() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x", None], "default": None}}}
    tool = {"type": "function", "name": "f", "parameters": schema}
    tools = ResponsesRequest.model_validate({"input": "Hi", "tools": [tool]}).called_tools
    assert tools is not None
    assert tools.functions[0]["function"]["parameters"] == schema


def test_items_and_blocks_of_hosted_tools_are_skipped() -> None:
    items = [{"type": kind, "id": "x"} for kind in ("web_search_call", "tool_search_call", "compaction", "mcp_call")]
    assert responses_messages(*items, {"role": "user", "content": "Hi"}) == [{"role": "user", "content": "Hi"}]
    with pytest.raises(ValidationError):
        ITEM.validate_python({"type": "made_up"})
    blocks = [{"type": kind, "id": "x"} for kind in ("server_tool_use", "web_search_tool_result", "tool_reference")]
    body = {"max_tokens": 1, "messages": [{"role": "user", "content": [*blocks, {"type": "text", "text": "Hi"}]}]}
    assert conversation(MessagesRequest.model_validate(body))[0] == [{"role": "user", "content": "Hi"}]


CUSTOM = {"type": "custom", "name": "apply_patch", "description": "Patch.", "format": {"type": "text"}}
NAMESPACE = {
    "type": "namespace",
    "name": "crm",
    "description": "",
    "tools": [{"type": "function", "name": "find", "parameters": CLEAN}],
}


def test_free_text_tools_and_namespaces_are_functions_to_the_model() -> None:
    request = ResponsesRequest.model_validate({"input": "Hi", "tools": [CUSTOM, NAMESPACE, {"type": "web_search"}]})
    assert request.called_tools is not None
    names = [tool["function"]["name"] for tool in request.called_tools.functions]
    assert names == ["apply_patch", "crm__find"]
    chosen = ResponsesRequest.model_validate(
        {"input": "Hi", "tools": [CUSTOM, NAMESPACE], "tool_choice": {"type": "custom", "name": "apply_patch"}}
    ).called_tools
    assert chosen is not None
    assert (len(chosen.functions), chosen.required) == (1, True)


def test_their_calls_come_back_in_their_own_item_types() -> None:
    request = ResponsesRequest.model_validate({"input": "Hi", "tools": [CUSTOM, NAMESPACE]})
    calls = (
        ToolCallDelta(0, '{"input": "a\\n', "c0", "apply_patch"),
        ToolCallDelta(0, 'b"}'),
        ToolCallDelta(1, '{"a": "x"}', "c1", "crm__find"),
    )
    deltas = [delta(tool_calls=calls[:1]), delta(tool_calls=calls[1:]), delta(reason="tool_calls")]

    def writer() -> ResponseWriter:
        return ResponseWriter(request, SamplingParams(), "m", lambda response: None)

    custom, find = whole(writer(), *deltas)["output"]
    assert (custom["type"], custom["name"], custom["input"]) == ("custom_tool_call", "apply_patch", "a\nb")
    assert (find["type"], find["name"], find["namespace"]) == ("function_call", "find", "crm")
    seen = events(writer(), *deltas)
    assert [each["input"] for each in seen if each["type"] == "response.custom_tool_call_input.done"] == ["a\nb"]
    history = responses_messages(
        {key: custom[key] for key in ("type", "call_id", "name", "input")},
        {key: find[key] for key in ("type", "call_id", "name", "namespace", "arguments")},
        {"type": "custom_tool_call_output", "call_id": "c0", "output": "done"},
        {"type": "local_shell_call", "id": "l", "call_id": "c2", "action": {"type": "exec", "command": ["ls"]}},
        {"type": "local_shell_call_output", "id": "c2", "output": "files"},
    )
    names = [call["function"]["name"] for message in history for call in message.get("tool_calls", ())]
    assert names == ["apply_patch", "crm__find", "local_shell"]
    assert [message["tool_call_id"] for message in history if message["role"] == "tool"] == ["c0", "c2"]


def histories_with_an_image_in_a_result() -> list[list[dict[str, Any]]]:
    output = [{"type": "input_image", "image_url": URL}, {"type": "input_text", "text": "A picture."}]
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    result = {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "image", "source": source}]}
    use = {"type": "tool_use", "id": "c", "name": "view", "input": {}}
    turns = [("user", "Look"), ("assistant", [use]), ("user", [result])]
    messages = [{"role": role, "content": content} for role, content in turns]
    request = MessagesRequest.model_validate({"max_tokens": 1, "messages": messages})
    chat = {"role": "tool", "tool_call_id": "c", "content": [{"type": "image_url", "image_url": {"url": URL}}]}
    return [
        responses_messages(
            {"role": "user", "content": "Look"},
            {"type": "function_call", "call_id": "c", "name": "view", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": output},
        ),
        conversation(request)[0],
        [
            {"role": "user", "content": "Look"},
            ChatRequest.model_validate({"messages": [chat]}).messages[0].template_message(),
        ],
    ]


@pytest.mark.parametrize("messages", histories_with_an_image_in_a_result(), ids=["responses", "messages", "chat"])
def test_an_image_in_a_tool_s_result_reaches_a_vision_model_and_is_a_text_for_others(
    messages: list[dict[str, Any]],
) -> None:
    assert messages[-1]["role"] == "tool"
    assert visible(model("images"), messages, "input") == messages
    assert "no vision" in visible(model(), messages, "input")[-1]["content"]


def test_an_image_of_an_earlier_turn_is_a_text_and_one_in_the_question_is_refused() -> None:
    image = {"type": "image_url", "image_url": {"url": URL}}
    shown = {"role": "user", "content": [{"type": "text", "text": "Look: "}, image]}
    later = [shown, {"role": "assistant", "content": "Hm."}, {"role": "user", "content": "Well?"}]
    assert visible(model(), later, "messages")[0]["content"] == "Look: [image: this model has no vision]"
    with pytest.raises(APIError, match="MMPROJ_PATH") as caught:
        visible(model(), [*later, shown], "messages")
    assert caught.value.param == "messages"
