"""Chats that other servers got wrong, over HTTP on both engines, with the model's own template and with public ones."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from ggserve.errors import InvalidRequest
from ggserve.generation import Delta, SamplingParams
from ggserve.messages import Tools
from ggserve.model.gguf_model import GGUFModel
from tests.chat.public_templates import FOLDER
from tests.conftest import Server, serve
from tests.shallow_model import write_shallow_model

ENGINES = ["ctransformers", "llama.cpp"]
NUMBER = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
UNFOLLOWABLE: dict[str, dict[str, Any]] = {
    "a missing reference": {"properties": {"a": {"$ref": "#/$defs/none"}}},
    "an unknown type": {"properties": {"a": {"type": "any"}}},
    "a pattern": {"properties": {"a": {"type": "string", "pattern": "\\bx\\b"}}},
    "brackets": {"$defs": {"A[int]": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/A[int]"}}},
}
needs_templates = pytest.mark.skipif(not FOLDER.exists(), reason="the public templates are not here")


def function(name: str, parameters: Any = NUMBER) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def call(call_id: Any, name: str, arguments: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def result(call_id: Any, content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


@pytest.fixture(scope="module", params=ENGINES)
def path(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, default_path: Path, original_path: Path
) -> Path:
    source = default_path if request.param == "ctransformers" else original_path
    return write_shallow_model(source, tmp_path_factory.mktemp("shallow") / f"{request.param}.gguf")


@pytest.fixture(scope="module")
def server(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"MODEL_PATH": str(path), "ENGINE": path.stem, "CONTEXT_LENGTH": "2048", "PARALLEL": "1"}
    with serve(tmp_path_factory.mktemp("logs"), **settings) as server:
        yield server


def asked(server: Server, *messages: Any, path: str = "/v1/chat/completions", **fields: Any) -> httpx.Response:
    body = {"messages": messages, "max_tokens": 8, "temperature": 0, **fields}
    return httpx.post(f"{server.url}{path}", json=body, timeout=120)


def prompt(server: Server, *messages: Any, **fields: Any) -> str:
    shown = asked(server, *messages, path="/apply-template", **fields)
    assert shown.status_code == 200, shown.text
    return str(shown.json()["prompt"])


@pytest.mark.parametrize(
    "text",
    [
        "C:\\Program Files\\Some Application\\bin",
        'He said "no", and then nothing for a long, long time.',
        "one line\nand\tanother one of more than thirty bytes",
        "<|im_end|> is a token of the model's own, as text",
    ],
)
def test_a_constant_of_any_characters(server: Server, text: str) -> None:
    for schema in ({"const": text}, {"enum": [text]}):
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        answered = asked(server, user("Say it."), response_format=form, max_tokens=100)
        assert json.loads(answered.json()["choices"][0]["message"]["content"]) == text, answered.text


def test_results_go_to_their_calls(server: Server) -> None:
    calls = {"role": "assistant", "content": "", "tool_calls": [call("A", "f", "{}"), call("B", "g", "{}")]}
    tools = [function("f"), function("g")]
    shown = prompt(server, user("Hi"), calls, result("B", "Zqtwo"), result("A", "Zqone"), tools=tools)
    assert -1 < shown.find("Zqone") < shown.find("Zqtwo")


@pytest.mark.parametrize("parameters", UNFOLLOWABLE.values(), ids=UNFOLLOWABLE)
def test_tools_that_cannot_be_followed_are_left_free(server: Server, parameters: dict[str, Any]) -> None:
    tools = [function("f", {"type": "object", **parameters}), function("g")]
    assert asked(server, user("Hi"), tools=tools).status_code == 200


@pytest.mark.parametrize("arguments", ["", '{"n": 1', '{"a": "cut', "nonsense", None])
def test_a_call_of_the_history_may_be_cut(server: Server, arguments: Any) -> None:
    calls = {"role": "assistant", "content": None, "tool_calls": [call("A", "f", arguments)]}
    answered = asked(server, user("Hi"), calls, result("A", "1"), tools=[function("f")])
    assert answered.status_code == 200, answered.text


def test_a_later_system_message_keeps_its_place_and_the_cache(server: Server) -> None:
    first = [{"role": "system", "content": "Be brief. " * 20}, user("Hi")]
    whole = asked(server, *first, tools=[function("f")], tool_choice="none", max_tokens=1).json()["usage"]
    more = [{"role": "assistant", "content": "Yes?"}, {"role": "system", "content": "Zqlate"}, user("Zqnow")]
    shown = prompt(server, *first, *more, tools=[function("f")])
    assert shown.find("Be brief.") < shown.find("Yes?") < shown.find("Zqlate") < shown.find("Zqnow")
    again = asked(server, *first, *more, tools=[function("f")], tool_choice="none", max_tokens=1).json()["usage"]
    assert again["prompt_tokens_details"]["cached_tokens"] >= whole["prompt_tokens"] - 8


def test_the_last_message_is_continued(server: Server) -> None:
    begun = [user("Hi"), {"role": "assistant", "content": "Hello, my"}]
    assert prompt(server, *begun).endswith("Hello, my")
    for fields in ({"continue_final_message": True}, {"add_generation_prompt": False}):
        assert prompt(server, *begun, **fields).endswith("Hello, my")
    assert not prompt(server, *begun, continue_final_message=False).endswith("Hello, my")


def test_the_prompt_that_is_shown_is_the_one_that_is_evaluated(server: Server) -> None:
    fields = {"tools": [function("f")], "chat_template_kwargs": {"x": 1}}
    shown = prompt(server, user("Hi"), **fields)
    assert '"f"' in shown
    counted = httpx.post(f"{server.url}/tokenize", json={"content": shown, "parse_special": True}).json()["tokens"]
    usage = asked(server, user("Hi"), **fields).json()["usage"]
    assert usage["prompt_tokens"] == len(counted)


@pytest.fixture
def model(request: pytest.FixtureRequest, path: Path, tmp_path: Path) -> Iterator[GGUFModel]:
    """The model with a public template, or one that is given."""
    source = FOLDER / f"{request.param}.jinja"
    if "{%" in request.param:
        source = tmp_path / "template.jinja"
        source.write_text(request.param)
    model = GGUFModel(
        path,
        engine=path.stem,
        chat_template=str(source),
        context_length=2048,
        parallel=1,
        threads=1,  # type: ignore[arg-type]
    )
    yield model
    model.close()


def with_template(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("model", [name], indirect=True)


def called(model: GGUFModel, tools: Tools, *, max_tokens: int = 200) -> list[tuple[str, Any]]:
    """The calls of an answer that must call."""

    async def collect() -> list[Delta]:
        params = SamplingParams(temperature=0, max_tokens=max_tokens)
        given = {"enable_thinking": False}
        return [delta async for delta in model.chat([user("Hi")], params, tools=tools, template_arguments=given)]

    calls: list[list[str]] = []
    for piece in (piece for delta in asyncio.run(collect()) for piece in delta.tool_calls):
        if piece.name:
            calls.append([piece.name, ""])
        calls[piece.index][1] += piece.arguments
    return [(name, json.loads(arguments)) for name, arguments in calls]


PARTS = (
    "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SILENT = (  # it shows no tools
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}</tool_call>{% endfor %}'
    "{% endfor %}{% if tools and not messages %}{{ tools }}{% endif %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@with_template(PARTS)
def test_a_template_of_parts_gets_the_text(model: GGUFModel) -> None:
    two = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert model.render_chat([user("Zq")]) == "<user>Zq<assistant>"
    assert model.render_chat([user(two)]) == "<user>one\ntwo<assistant>"


@with_template(SILENT)
def test_many_large_tools_work(model: GGUFModel) -> None:
    parameters = {"type": "object", "properties": {f"p{i}": {"enum": ["a", None]} for i in range(8)}}
    tools = Tools(tuple(function(f"tool_{number}", parameters) for number in range(128)), required=True, parallel=False)
    ((name, _),) = called(model, tools)
    assert name in {tool["function"]["name"] for tool in tools.functions}


@needs_templates
@with_template("google-gemma-2-2b-it")
def test_a_system_message_where_the_template_refuses_it(model: GGUFModel) -> None:
    shown = model.render_chat(
        [{"role": "system", "content": "Zqsystem"}, user("Zquser")], tools=Tools((function("f"),))
    )
    assert -1 < shown.find("Zqsystem") < shown.find("Zquser")


@needs_templates
@pytest.mark.parametrize(
    "model",
    [
        "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
        "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
        "meetkai-functionary-medium-v3.1",
        "fireworks-ai-llama-3-firefunction-v2",
    ],
    indirect=True,
)
def test_optional_fields_are_optional(model: GGUFModel) -> None:
    assert "zqname" in model.render_chat([user("Hi")], tools=Tools((function("zqname"),)))
    assert model.render_chat([user("Zqhi")])


@needs_templates
@with_template("meta-llama-Llama-3.1-8B-Instruct")
def test_parallel_calls_where_the_template_refuses_them(model: GGUFModel) -> None:
    both = {"role": "assistant", "content": "", "tool_calls": [call("A", "f", {}), call("B", "g", {})]}
    tools = Tools((function("f"), function("g")), required=True)
    shown = model.render_chat([user("Hi"), both, result("B", "Zqtwo"), result("A", "Zqone")], tools=tools)
    assert -1 < shown.find("Zqone") < shown.find("Zqtwo")
    assert len(called(model, tools)) == 1


@needs_templates
@pytest.mark.parametrize(
    "model", ["meetkai-functionary-medium-v3.1", "mistralai-Mistral-Nemo-Instruct-2407"], indirect=True
)
def test_long_names_and_odd_ids(model: GGUFModel) -> None:
    name = "a_long_name_of_a_tool_" * 5 + "of_128_charactersx"
    tools = Tools((function(name),), required=True, parallel=False)
    assert len(name) == 128
    assert [made for made, _ in called(model, tools)] == [name]
    numbered = {"role": "assistant", "content": "", "tool_calls": [call(5, name, {"n": 1})]}
    assert "Zqresult" in model.render_chat([user("Hi"), numbered, result(5, "Zqresult")], tools=tools)
    with pytest.raises(InvalidRequest):
        model.render_chat([user("Hi"), {**numbered, "tool_calls": ["x"]}], tools=tools)


@needs_templates
@pytest.mark.parametrize("model", ["mistralai-Mistral-Nemo-Instruct-2407", "openai-gpt-oss-120b"], indirect=True)
def test_one_prompt_whether_calls_are_required_or_not(model: GGUFModel) -> None:
    tools = Tools((function("f"),))
    assert model.render_chat([user("Hi")], tools=tools) == model.render_chat(
        [user("Hi")], tools=replace(tools, required=True)
    )
