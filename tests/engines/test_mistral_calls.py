"""Calls in Mistral's formats, which begin with a control token, on ctransformers: a tiny model with random weights."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ggserve.generation import Delta, SamplingParams
from ggserve.messages import Tools
from ggserve.model.gguf_model import GGUFModel
from tests.modelfile.tiny_gguf import U32, llama

CONTROLS = ("[TOOL_CALLS]", "[ARGS]")  # in the places of the vocabulary's last two tokens
CHAT = "{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
HISTORY = {
    "a list": "{% elif m.tool_calls %}[TOOL_CALLS][{% for c in m.tool_calls %}"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}'
    "{% if c.id | length != 9 %}{{ raise_exception('no') }}{% endif %}{% endfor %}]",
    "names": "{% elif m.tool_calls %}{% for c in m.tool_calls %}"
    "[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}",
}
LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {
            "type": "object",
            "properties": {"at": {"type": "string", "enum": ["a cat", "[ARGS]"]}},
            "required": ["at"],
        },
    },
}
GREEDY = SamplingParams(max_tokens=120, temperature=0, logprobs=0)


@pytest.fixture(params=HISTORY)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GGUFModel]:
    spec = llama()
    spec.fields["llama.context_length"] = (U32, 1024)
    tokens, types = (spec.fields[f"tokenizer.ggml.{name}"][1].values for name in ("tokens", "token_type"))
    for token, text in enumerate(CONTROLS, len(tokens) - len(CONTROLS)):
        tokens[token], types[token] = text.encode(), 3
    template = tmp_path / "mistral.jinja"
    template.write_text(f"{CHAT}{HISTORY[request.param]}{{% endif %}}{{% endfor %}}{{# tools #}}")
    path = spec.write(tmp_path / "tiny.gguf")
    model = GGUFModel(path, engine="ctransformers", threads=1, parallel=1, chat_template=str(template))
    yield model
    model.close()


async def _answered(model: GGUFModel, chat: list[dict], tools: Tools, params: SamplingParams = GREEDY) -> list[Delta]:
    return [delta async for delta in model.chat(chat, params, tools=tools)]


def test_a_call_begins_with_the_token_and_goes_back_into_the_chat(model: GGUFModel):
    asked = [{"role": "user", "content": "a"}]
    deltas = asyncio.run(_answered(model, asked, Tools((LOOK,), required=True, parallel=False)))
    assert deltas[-1].finish_reason == "tool_calls"
    assert "".join(delta.text for delta in deltas) == ""
    pieces = [piece for delta in deltas for piece in delta.tool_calls]
    assert [piece.name for piece in pieces if piece.name] == ["look"]
    arguments = "".join(piece.arguments for piece in pieces)
    assert json.loads(arguments)["at"] in ("a cat", "[ARGS]")
    first = next(token for delta in deltas for token in delta.tokens)
    assert (first.bytes, first.id) == (b"[TOOL_CALLS]", model.tokenize("[TOOL_CALLS]", add_special=False)[-1])

    call = {"id": pieces[0].id, "type": "function", "function": {"name": "look", "arguments": arguments}}
    chat = [*asked, {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "user", "content": "b"}]
    again = asyncio.run(_answered(model, chat, Tools((LOOK,))))
    assert again[-1].prompt_tokens > deltas[-1].prompt_tokens


def test_the_token_means_a_call_where_none_is_required(model: GGUFModel):
    bias = {model.tokenize("[TOOL_CALLS]", add_special=False)[-1]: 1000.0}
    params = SamplingParams(max_tokens=120, temperature=0, logit_bias=bias)
    deltas = asyncio.run(_answered(model, [{"role": "user", "content": "a"}], Tools((LOOK,), parallel=False), params))
    assert [piece.name for delta in deltas for piece in delta.tool_calls if piece.name] == ["look"]
    assert not deltas[0].text


def test_text_of_a_user_is_no_call(model: GGUFModel):
    plain, alike = (
        asyncio.run(model.count_chat([{"role": "user", "content": text}])) for text in ("a", "a[TOOL_CALLS]")
    )
    assert alike > plain + 1
