"""An invalid field is an error that names it; tools and `tool_choice` become ours."""

from typing import Any

import pytest
from pydantic import ValidationError

from ggserve.api.anthropic.schemas import MessagesRequest

BODY: dict[str, Any] = {"max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
TOOL = {"name": "now", "description": "The time", "input_schema": {"type": "object", "properties": {}}}


def block(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [fields]}]}


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ("max_tokens", {"max_tokens": None}),
        ("max_tokens", {"max_tokens": "5"}),
        ("max_tokens", {"max_tokens": -1}),
        ("messages", {"messages": []}),
        ("messages", {"messages": "Hi"}),
        ("messages.0.role", {"messages": [{"role": "tool", "content": "Hi"}]}),
        ("messages.0.content", {"messages": [{"role": "user", "content": 5}]}),
        ("messages.0.content", {"messages": [{"role": "user"}]}),
        ("messages.0.content.0", block(type="video")),
        ("messages.0.content.0.text.text", block(type="text")),
        ("messages.0.content.0.image", block(type="image", source={})),
        ("messages.0.content.0.document.source.type", block(type="document", source={"type": "base64"})),
        ("messages.0.content.0.tool_use.input", block(type="tool_use", id="1", name="f", input="x")),
        ("messages.0.content.0.tool_result.content", block(type="tool_result", tool_use_id="1", content=3)),
        ("messages.0.content.0.tool_result.content.0", block(type="tool_result", tool_use_id="1", content=[3])),
        ("system", {"system": 5}),
        ("system.0.type", {"system": [{"type": "image", "text": ""}]}),
        ("temperature", {"temperature": 3}),
        ("top_k", {"top_k": -1}),
        ("top_p", {"top_p": True}),
        ("stop_sequences", {"stop_sequences": "x"}),
        ("stop_sequences.0", {"stop_sequences": [1]}),
        ("stream", {"stream": "yes"}),
        ("metadata", {"metadata": "me"}),
        ("tools.0.name", {"tools": [{**TOOL, "name": "not a name"}]}),
        ("tools.0", {"tools": [{"name": "now"}]}),
        ("tool_choice.type", {"tool_choice": {"type": "all"}}),
        ("thinking.type", {"thinking": {"type": "deep"}}),
        ("output_config.format.schema", {"output_config": {"format": {"type": "json_schema"}}}),
        ("", {"tool_choice": {"type": "any"}}),
        ("", {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "then"}}),
    ],
)
def test_a_wrong_field_is_named(place: str, change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as error:
        MessagesRequest.model_validate(BODY | change)
    assert ".".join(map(str, error.value.errors()[0]["loc"])) == place


@pytest.mark.parametrize(
    ("choice", "names", "required", "parallel"),
    [
        (None, ["now", "then"], False, True),
        ({"type": "auto", "disable_parallel_tool_use": True}, ["now", "then"], False, False),
        ({"type": "any"}, ["now", "then"], True, True),
        ({"type": "tool", "name": "then"}, ["then"], True, False),
    ],
)
def test_the_choice_of_tools(choice: Any, names: list[str], required: bool, parallel: bool) -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    tools = [TOOL, search, {**TOOL, "name": "then", "type": "custom"}]
    called = MessagesRequest.model_validate(BODY | {"tools": tools, "tool_choice": choice}).called_tools
    assert called is not None
    assert [tool["function"]["name"] for tool in called.functions] == names
    assert called.functions[0]["function"]["parameters"] == TOOL["input_schema"]
    assert (called.required, called.parallel) == (required, parallel)


def test_whole_numbers_may_be_written_with_a_point() -> None:
    assert MessagesRequest.model_validate(BODY | {"max_tokens": 5.0}).max_tokens == 5
    with pytest.raises(ValidationError):
        MessagesRequest.model_validate(BODY | {"max_tokens": 5.5})


def test_no_tools_where_none_may_be_called() -> None:
    request = MessagesRequest.model_validate(BODY | {"tools": [TOOL], "tool_choice": {"type": "none"}})
    assert request.called_tools is None


def test_what_is_not_given_has_our_defaults() -> None:
    request = MessagesRequest.model_validate(BODY | {"top_k": 3, "stop_sequences": ["x"], "context_management": {}})
    params = request.sampling_params()
    assert (params.max_tokens, params.temperature, params.top_k, params.stop) == (5, 0.8, 3, ("x",))


@pytest.mark.parametrize("name", ["output_config", "output_format"])
def test_the_format_of_an_answer_has_two_names(name: str):
    form = {"type": "json_schema", "schema": {"type": "integer"}}
    fields = {name: {"format": form} if name == "output_config" else form}
    body = {"max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}], **fields}
    grammar = MessagesRequest.model_validate(body).sampling_params().grammar
    assert grammar is not None
    assert grammar.source.startswith(name)
