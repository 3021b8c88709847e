"""The first layers of SmolLM2 with the templates of models that think and call: required calls and structured output on
both engines."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ggserve.generation import Delta, SamplingParams, schema_grammar
from ggserve.messages import Tools
from ggserve.model.gguf_model import GGUFModel
from tests.shallow_model import write_shallow_model

TEMPLATES = Path(__file__).resolve().parents[3] / "shared" / "templates"
NAMES = [
    "Qwen-Qwen3-0.6B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "openai-gpt-oss-120b",
    "GLM-4.7-Flash",
    "HuggingFaceTB-SmolLM3-3B",
    "google-gemma-4-31B-it",
    "MiniMax-M2",
    "MiniMax-M3",
    "mistralai-Ministral-3-14B-Reasoning-2512",
    "meta-llama-Llama-3.1-8B-Instruct",
]
PROPERTIES = {"place": {"type": "string", "enum": ["Paris", "Rome"]}, "days": {"type": "integer", "enum": [1, 2]}}
PARAMETERS = {"type": "object", "properties": PROPERTIES, "required": ["place", "days"], "additionalProperties": False}
TOOLS = Tools(
    ({"type": "function", "function": {"name": "get_weather", "description": "Look.", "parameters": PARAMETERS}},),
    required=True,
    parallel=False,
)
CHAT = [{"role": "user", "content": "What is the weather in Rome?"}]
QUIET = {"enable_thinking": False}

pytestmark = pytest.mark.skipif(not TEMPLATES.exists(), reason="the public templates are not here")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, default_path: Path, original_path: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("shallow")
    return {
        "ctransformers": write_shallow_model(default_path, folder / "converted.gguf"),
        "llama.cpp": write_shallow_model(original_path, folder / "original.gguf"),
    }


@pytest.fixture(scope="module", params=[(e, n) for n in NAMES for e in ("ctransformers", "llama.cpp")], ids=" ".join)
def model(request: pytest.FixtureRequest, files: dict[str, Path]) -> Iterator[GGUFModel]:
    engine, name = request.param
    template = str(TEMPLATES / f"{name}.jinja")
    model = GGUFModel(files[engine], engine=engine, chat_template=template, context_length=2048, threads=1, parallel=1)
    yield model
    model.close()


async def _deltas(model: GGUFModel, params: SamplingParams, tools: Tools | None = None) -> list[Delta]:
    return [delta async for delta in model.chat(CHAT, params, tools=tools, template_arguments=QUIET)]


def test_a_required_call(model: GGUFModel) -> None:
    deltas = asyncio.run(_deltas(model, SamplingParams(max_tokens=250, temperature=0), TOOLS))
    calls = [call for delta in deltas for call in delta.tool_calls]
    assert deltas[-1].finish_reason == "tool_calls"
    assert [call.name for call in calls if call.name] == ["get_weather"]
    arguments = json.loads("".join(call.arguments for call in calls))
    assert arguments["place"] in ("Paris", "Rome") and arguments["days"] in (1, 2)
    assert "".join(delta.text for delta in deltas) == ""


def test_an_answer_of_a_schema(model: GGUFModel) -> None:
    held = SamplingParams(max_tokens=250, temperature=0, grammar=schema_grammar(PARAMETERS))
    deltas = asyncio.run(_deltas(model, held))
    assert set(json.loads("".join(delta.text for delta in deltas))) == {"place", "days"}
    assert deltas[-1].finish_reason == "stop"
