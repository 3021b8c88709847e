"""An answer follows its JSON schema, on both engines: `SCHEMAS=200` for more of them than the quick 25.

A model with random weights answers, which prefers unlikely tokens; the default model answers fewer.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from ggserve.chat.answer_grammar import answer_grammar
from ggserve.chat.format import ChatFormat
from ggserve.chat.own_tools import HERMES
from ggserve.errors import InvalidRequest
from ggserve.generation import Delta, Grammar, SamplingParams, schema_grammar
from ggserve.grammar.matcher import Grammars, byte_vocabulary
from ggserve.messages import Tools
from ggserve.model.gguf_model import GGUFModel
from tests.answers import collect
from tests.engines.tiny_models import TinyModel, decoder
from tests.grammar.schemas import schema

COUNT = int(os.environ.get("SCHEMAS", "25"))
FEW = COUNT // 5  # in a large vocabulary


@pytest.fixture(scope="module", params=["ctransformers", "llama.cpp"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GGUFModel]:
    model = load(tmp_path_factory.mktemp("tiny"), request.param, space_prefix=request.param == "ctransformers")
    yield model
    model.close()


def load(folder: Path, engine: str, *, space_prefix: bool, **options: str) -> GGUFModel:
    tiny = TinyModel(folder / "tiny.gguf", "llama")
    tiny.sentencepiece_vocabulary()
    decoder(tiny)
    tiny.writer.add_add_space_prefix(space_prefix)
    return GGUFModel(tiny.write(), engine=engine, parallel=1, threads=1, **options)


async def check(model: GGUFModel, number: int, params: SamplingParams) -> Delta:
    """One answer to a schema: JSON of it, or its beginning where it was cut."""
    wanted = schema(number)
    held = replace(params, temperature=1.0, top_k=0, top_p=1.0, seed=number, grammar=schema_grammar(wanted))
    text, last = await collect(model.complete("JSON:", held))
    if last.finish_reason == "stop":
        # Not "time", of which it knows no leap seconds.
        formats = jsonschema.FormatChecker(["date", "uuid", "ipv4"])
        checker = jsonschema.Draft202012Validator(wanted, format_checker=formats)
        checker.validate(json.loads(text))
    else:
        assert last.finish_reason == "length"
        grammars = Grammars(byte_vocabulary())
        matcher, _ = await grammars.matcher(schema_grammar(wanted))
        grammars.close()
        assert matcher.take_text(text.rstrip("\ufffd")), text
        assert not matcher.ended
    return last


def test_an_answer_at_random_follows_its_schema(tiny: GGUFModel):
    async def checked() -> list[str | None]:
        return [(await check(tiny, number, SamplingParams(max_tokens=400))).finish_reason for number in range(COUNT)]

    reasons = asyncio.run(checked())
    assert reasons.count("stop") > COUNT * 0.8


@pytest.mark.parametrize("number", range(FEW))
def test_an_answer_in_a_large_vocabulary_does_too(shallow_either: GGUFModel, number: int):
    asyncio.run(check(shallow_either, number, SamplingParams(max_tokens=100)))


@pytest.mark.parametrize("max_tokens", [1, 5, 12, 20])
def test_what_max_tokens_cuts_is_the_beginning_of_one(tiny: GGUFModel, max_tokens: int):
    reasons = [
        asyncio.run(check(tiny, number, SamplingParams(max_tokens=max_tokens))).finish_reason
        for number in range(COUNT // 2)
    ]
    assert "length" in reasons


def test_the_empty_answer_may_end_whatever_is_ignored(tiny: GGUFModel):
    params = SamplingParams(grammar=Grammar("choice", '[""]', None), ignore_eos=True)
    assert asyncio.run(collect(tiny.complete("x", params)))[0] == ""


def test_llama_cpp_follows_schemas_in_gbnf_where_it_takes_the_spaces_from_tokens(tmp_path: Path):
    model = load(tmp_path, "llama.cpp", space_prefix=True)
    reasons = []
    # llama.cpp's grammars take characters that are spelled with more bytes than they need, which are no UTF-8.
    overlong = {3 + byte: -1000.0 for byte in (0xC0, 0xC1, 0xE0, 0xF0)}  # the tokens of these bytes
    try:
        for number in range(COUNT):
            with contextlib.suppress(InvalidRequest):
                last = asyncio.run(check(model, number, SamplingParams(max_tokens=400, logit_bias=overlong)))
                reasons.append(last.finish_reason)
        empty = SamplingParams(grammar=Grammar("choice", '[""]', None), ignore_eos=True)
        assert asyncio.run(collect(model.complete("x", empty)))[0] == ""
        with pytest.raises(InvalidRequest, match=r"multipleOf .*ENGINE=ctransformers") as caught:
            hard = schema_grammar({"type": "integer", "multipleOf": 7}, "format")
            asyncio.run(collect(model.complete("x", SamplingParams(grammar=hard))))
        assert caught.value.field == "format"
        tools = Tools(
            ({"type": "function", "function": {"name": "f", "parameters": PERSON}},), required=True, parallel=False
        )
        calls = answer_grammar(ChatFormat(calls=HERMES), tools, None)
        params = SamplingParams(max_tokens=300, temperature=1, seed=1, grammar=calls)
        text, last = asyncio.run(collect(model.complete("x", params)))
        assert last.finish_reason == "stop"
        assert text.startswith('<tool_call>\n{"name": "f", "arguments": {"name": "')
    finally:
        model.close()
    assert len(reasons) > COUNT * 0.8
    assert reasons.count("stop") > len(reasons) * 0.8


TURNS = (
    "{% for m in messages %}<{{ m.role }}>{% for c in m.tool_calls or [] %}CALL{% else %}{{ m.content }}{% endfor %}"
    "<end>{% endfor %}{% if add_generation_prompt %}<assistant>PROMPT{% endif %}"
)
JSON_CALL = '{"name": "{{ c.function.name }}", "KEY": {{ c.function.arguments | tojson }}}'
TEMPLATES = {  # one whose calls are bare JSON, one at a time, and one that thinks
    "llama3": TURNS.replace("PROMPT", "").replace(
        "CALL", "{{ raise_exception('one') if loop.length > 1 }}" + JSON_CALL.replace("KEY", "parameters")
    ),
    "thinking": TURNS.replace("PROMPT", "<think></think>").replace(
        "CALL", "<tool_call>" + JSON_CALL.replace("KEY", "arguments") + "</tool_call>"
    ),
}


@pytest.mark.parametrize("engine", ["ctransformers", "llama.cpp"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_an_answer_calls_or_follows_its_schema(tmp_path: Path, template: str, engine: str):
    source = tmp_path / "template.jinja"
    source.write_text(TEMPLATES[template])
    model = load(tmp_path, engine, space_prefix=engine == "ctransformers", chat_template=str(source))
    colour = {"type": "object", "properties": {"name": {"enum": ["red", "blue"]}}, "required": ["name"]}
    size = {"type": "object", "properties": {"size": {"enum": [1, 2]}}, "required": ["size"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": size}}
    called = said = 0
    try:
        for seed in range(12):
            held = schema_grammar(colour)
            params = SamplingParams(max_tokens=200, temperature=9, top_k=0, top_p=1, seed=seed, grammar=held)
            chat = model.chat([{"role": "user", "content": "Hi"}], params, tools=Tools((tool,), parallel=False))
            calls, text, last = asyncio.run(parts(chat))
            assert last.finish_reason == ("tool_calls" if calls else "stop")
            jsonschema.validate(json.loads(calls or text), size if calls else colour)
            assert not (calls and text)
            called, said = called + bool(calls), said + bool(text)
    finally:
        model.close()
    assert called
    assert said


async def parts(deltas: AsyncGenerator[Delta, None]) -> tuple[str, str, Delta]:
    """The arguments of an answer's calls, its text, and its last delta."""
    every = [delta async for delta in deltas]
    arguments = "".join(call.arguments for delta in every for call in delta.tool_calls)
    return arguments, "".join(delta.text for delta in every), every[-1]


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
}
