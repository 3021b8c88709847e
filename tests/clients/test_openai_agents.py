"""OpenAI's Agents SDK with its default model class, which speaks the Responses API."""

from typing import Any

import agents
import openai
import pytest


@pytest.fixture
def agent(url: str) -> Any:
    agents.set_tracing_disabled(True)  # it would send traces to OpenAI
    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
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
    agent.model_settings.parallel_tool_calls = False  # a small model makes calls without end
    result = agents.Runner.run_sync(agent, "What is the weather in Paris?", max_turns=3)
    assert len(called) == 1
    assert [item.type for item in result.new_items][:2] == ["tool_call_item", "tool_call_output_item"]
    assert isinstance(result.final_output, str)
