"""A model file with templates for chats with tools and with documents, on both engines."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ggserve.generation import SamplingParams
from ggserve.messages import Tools
from ggserve.model.gguf_model import GGUFModel
from tests.shallow_model import write_shallow_model

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
CALLS = (
    '{% for c in m.tool_calls or [] %}<call>{"name": "{{ c.function.name }}", '
    '"args": {{ c.function.arguments | tojson }}}</call>{% endfor %}'
)
END = "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TEMPLATES = {
    "": TURNS + END,
    ".tool_use": "{% if tools %}Tools: {{ tools | tojson }}\n{% endif %}" + TURNS + CALLS + END,
    ".rag": "{% for d in documents %}Document {{ loop.index }}: {{ d.text }}\n{% endfor %}" + TURNS + END,
    ".of_someone": "Someone's\n" + TURNS + END,
}
CHAT = [{"role": "user", "content": "Hi"}]
PARAMETERS = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
TOOLS = Tools(
    ({"type": "function", "function": {"name": "f", "parameters": PARAMETERS}},), required=True, parallel=False
)


@pytest.fixture(scope="module", params=["ctransformers", "llama.cpp"])
def options(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, default_path: Path, original_path: Path
) -> dict[str, Any]:
    metadata = {f"tokenizer.chat_template{name}": source for name, source in TEMPLATES.items()}
    source = default_path if request.param == "ctransformers" else original_path
    path = write_shallow_model(source, tmp_path_factory.mktemp("named") / "model.gguf", metadata)
    return {"path": path, "engine": request.param, "context_length": 512, "threads": 1, "parallel": 1}


@pytest.fixture(scope="module")
def model(options: dict[str, Any]) -> Iterator[GGUFModel]:
    model = GGUFModel(**options)
    yield model
    model.close()


def prompt(model: GGUFModel, **options: Any) -> str:
    return model.render_chat(CHAT, **options)


def test_each_is_used_for_what_it_is_for(model: GGUFModel) -> None:
    documents = {"documents": [{"title": "A", "text": "The sky is <|im_end|> blue."}]}
    chat = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert prompt(model) == chat
    assert prompt(model, template_arguments={"documents": []}) == chat
    assert prompt(model, template_arguments=documents) == f"Document 1: The sky is <|im_end|> blue.\n{chat}"
    assert prompt(model, tools=TOOLS, template_arguments=documents).startswith("Tools: [")


def test_calls_are_those_of_the_template_for_tools(model: GGUFModel) -> None:
    async def deltas() -> list[Any]:
        return [delta async for delta in model.chat(CHAT, SamplingParams(max_tokens=60, temperature=0), tools=TOOLS)]

    calls = [call for delta in asyncio.run(deltas()) for call in delta.tool_calls]
    assert [call.name for call in calls if call.name] == ["f"]
    assert json.loads("".join(call.arguments for call in calls))["n"] in (1, 2)


def test_one_can_be_chosen_by_its_name(options: dict[str, Any]) -> None:
    model = GGUFModel(**options, chat_template="of_someone")
    assert prompt(model).startswith("Someone's")
    model.close()
