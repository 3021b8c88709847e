"""Thoughts of real models, on both engines: structured output follows them, and a budget closes them."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from ggserve.generation import Delta, Grammar, SamplingParams, schema_grammar
from ggserve.messages import Tools
from ggserve.model.gguf_model import GGUFModel

TEMPLATE = """{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
OPENING{% endif %}"""
OPENINGS = {"open": "<think>\n", "free": ""}
PATHS = {  # only the whole model opens its thoughts itself
    ("ctransformers", "open"): "shallow_path",
    ("ctransformers", "free"): "default_path",
    ("llama.cpp", "open"): "shallow_original_path",
    ("llama.cpp", "free"): "original_path",
}
CHAT = [{"role": "user", "content": "What is the capital of Norway?"}]
COLOUR = {"type": "object", "properties": {"name": {"enum": ["red", "blue"]}}, "required": ["name"]}
GREEDY = SamplingParams(temperature=0, max_tokens=80)


@pytest.fixture(scope="module", params=PATHS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GGUFModel]:
    engine, state = request.param
    template = tmp_path_factory.mktemp("template") / "thinks.jinja"
    template.write_text(TEMPLATE.replace("OPENING", OPENINGS[state]))
    path = request.getfixturevalue(PATHS[request.param])
    model = GGUFModel(path, engine=engine, parallel=1, threads=1, context_length=1024, chat_template=str(template))
    yield model
    model.close()


def answer(model: GGUFModel, params: SamplingParams, **options: Any) -> tuple[str, str, Delta]:
    """Thought, text (or arguments of calls), and the last delta."""

    async def collect() -> list[Delta]:
        return [delta async for delta in model.chat(CHAT, params, **options)]

    deltas = asyncio.run(collect())
    text = "".join(delta.text + "".join(call.arguments for call in delta.tool_calls) for delta in deltas)
    return "".join(delta.reasoning for delta in deltas), text, deltas[-1]


def opens(model: GGUFModel) -> bool:
    return model.render_chat(CHAT).endswith("<think>\n")


@pytest.mark.parametrize("budget", [0, 5, 20])
def test_structured_output_after_a_thought_of_so_many_tokens(model: GGUFModel, budget: int):
    params = replace(GREEDY, grammar=schema_grammar(COLOUR), thinking_budget=budget)
    thought, text, last = answer(model, params)
    jsonschema.validate(json.loads(text), COLOUR)
    assert last.finish_reason == "stop"
    if opens(model):
        assert bool(thought) == (budget > 0)
        assert len(model.tokenize(thought, add_special=False)) <= budget + 1
        assert "think>" not in thought
    assert last.completion_tokens <= budget + 30


def test_an_answer_follows_a_closed_thought(model: GGUFModel):
    thought, text, last = answer(model, replace(GREEDY, thinking_budget=5, max_tokens=30))
    assert text
    assert "think>" not in text + thought
    assert last.completion_tokens <= 30
    if opens(model):
        assert thought


@pytest.mark.parametrize(
    "grammar", [schema_grammar(COLOUR), Grammar("regex", "[0-9]{3}"), Grammar("choice", '["a", "b"]')]
)
def test_max_tokens_ends_a_thought_that_has_no_budget(model: GGUFModel, grammar: Grammar):
    thought, text, last = answer(model, replace(GREEDY, grammar=grammar, max_tokens=12))
    if opens(model):
        assert (bool(thought), text, last.finish_reason) == (True, "", "length")


def test_a_required_call_follows_the_thought(model: GGUFModel):
    tools = Tools(
        ({"type": "function", "function": {"name": "paint", "parameters": COLOUR}},), required=True, parallel=False
    )
    thought, arguments, last = answer(model, replace(GREEDY, thinking_budget=5), tools=tools)
    jsonschema.validate(json.loads(arguments), COLOUR)
    assert last.finish_reason == "tool_calls"
    assert bool(thought) <= opens(model)


def test_the_prompt_and_the_thought_are_evaluated_once(model: GGUFModel):
    if not opens(model):
        return
    answer(model, replace(GREEDY, thinking_budget=20, max_tokens=22))
    _, _, last = answer(model, replace(GREEDY, thinking_budget=20, max_tokens=22))
    assert last.cached_tokens >= last.prompt_tokens - 2
