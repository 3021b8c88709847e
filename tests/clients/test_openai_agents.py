"""OpenAI's Agents SDK with its default model class, which speaks the Responses API. Runs where it is installed."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from modelfile.source.default import packaged_model
from tests.conftest import Server, serve

agents = pytest.importorskip("agents", reason="needs openai-agents")


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"MODEL_PATH": str(packaged_model()), "ENGINE": "llama.cpp", "CONTEXT_LENGTH": "2048", "PARALLEL": "1"}
    with serve(tmp_path_factory.mktemp("logs"), **settings) as server:
        yield server


@pytest.fixture
def agent(native: Server) -> Any:
    agents.set_tracing_disabled(True)  # it would send traces to OpenAI
    client = openai.AsyncOpenAI(base_url=f"{native.url}/v1", api_key="none", max_retries=0)
    return agents.Agent(
        name="tester",
        instructions="Be brief.",
        model=agents.OpenAIResponsesModel(model="any", openai_client=client),
        model_settings=agents.ModelSettings(temperature=0, max_tokens=80),
    )


def test_an_answer(agent: Any):
    assert "sea" in agents.Runner.run_sync(agent, "Write one sentence about the sea.").final_output


def test_a_tool_is_called_and_its_result_goes_back(agent: Any):
    called = []

    @agents.function_tool
    def get_weather(city: str) -> str:
        """The weather in a city."""
        called.append(city)
        return "Sunny, 24 degrees."

    agent.tools = [get_weather]
    agent.model_settings.tool_choice = "required"
    result = agents.Runner.run_sync(agent, "What is the weather in Paris?", max_turns=3)
    assert len(called) == 1
    assert [item.type for item in result.new_items][:2] == ["tool_call_item", "tool_call_output_item"]
    assert isinstance(result.final_output, str)
