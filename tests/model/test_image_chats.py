"""Chats with an image on both transports of llama.cpp, with thoughts, calls and structured output."""

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from ggserve.generation import Delta, Grammar, SamplingParams, schema_grammar
from ggserve.messages import Tools
from ggserve.model.gguf_model import GGUFModel
from tests.engines.tiny_companions import write_projector
from tests.engines.tiny_models import write_tiny_model
from tests.llama_server import launcher

TEMPLATE = (
    "{% if tools %}{{ tools | map(attribute='function') | map(attribute='name') | join(' ') }}\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n"
    "{% if enable_thinking is defined and not enable_thinking %}\n</think>\n\n{% endif %}{% endif %}"
)
COLOUR = {"type": "object", "properties": {"name": {"enum": ["red", "blue"]}}, "required": ["name"]}
TOOLS = Tools(({"type": "function", "function": {"name": "paint", "parameters": COLOUR}},), required=True)
PARAMS = SamplingParams(temperature=0, max_tokens=100, thinking_budget=4)


def chat() -> list[dict[str, Any]]:
    buffer = io.BytesIO()
    Image.new("RGB", (28, 28), "red").save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "?"}]}
    ]


@pytest.fixture(scope="module", params=["in-process", "child"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GGUFModel]:
    folder = tmp_path_factory.mktemp("sees")
    path = write_tiny_model(folder, "qwen2")
    write_projector(folder / "mmproj-tiny.gguf")
    template = folder / "template.jinja"
    template.write_text(TEMPLATE)
    child = {"llama_server": str(launcher(folder))} if request.param == "child" else {}
    model = GGUFModel(path, threads=1, parallel=1, context_length=512, chat_template=str(template), **child)
    yield model
    model.close()


def answer(model: GGUFModel, params: SamplingParams, **options: Any) -> tuple[str, str, list[Any], Delta]:
    """Thought, text, the pieces of calls, and the last delta."""

    async def collect() -> list[Delta]:
        return [delta async for delta in model.chat(chat(), params, **options)]

    deltas = asyncio.run(collect())
    calls = [call for delta in deltas for call in delta.tool_calls]
    return "".join(delta.reasoning for delta in deltas), "".join(delta.text for delta in deltas), calls, deltas[-1]


@pytest.mark.parametrize("thinks", [True, False])
@pytest.mark.parametrize("parallel", [True, False])
def test_a_required_call(model: GGUFModel, thinks: bool, parallel: bool) -> None:
    tools = replace(TOOLS, parallel=parallel)
    thought, text, calls, last = answer(model, PARAMS, tools=tools, template_arguments={"enable_thinking": thinks})
    assert text == ""
    assert bool(thought) == thinks
    names = [call.name for call in calls if call.name]
    assert set(names) == {"paint"}
    for index in range(len(names) - (last.finish_reason == "length")):
        arguments = "".join(call.arguments for call in calls if call.index == index)
        assert json.loads(arguments)["name"] in ("red", "blue")
    if not parallel:
        assert (len(names), last.finish_reason) == (1, "tool_calls")


@pytest.mark.parametrize("thinks", [True, False])
@pytest.mark.parametrize("grammar", [schema_grammar(COLOUR), Grammar("regex", r'\{"name": "(red|blue)"\}', "regex")])
def test_structured_output(model: GGUFModel, thinks: bool, grammar: Grammar) -> None:
    params = replace(PARAMS, grammar=grammar)
    thought, text, _, last = answer(model, params, template_arguments={"enable_thinking": thinks})
    assert json.loads(text)["name"] in ("red", "blue")
    assert bool(thought) == thinks
    assert last.finish_reason == "stop"


def test_an_answer_that_has_begun_goes_on(model: GGUFModel) -> None:
    params = replace(PARAMS, grammar=Grammar("choice", '["red", "blue"]', "choice"))
    _, text, _, _ = answer(model, params, begun="The colour is ")
    assert text in ("red", "blue")
