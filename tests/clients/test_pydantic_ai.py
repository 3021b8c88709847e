"""Pydantic AI's agents over chat completions."""

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class City(BaseModel):
    name: str = Field(max_length=20)
    people: int = Field(ge=0, le=10**8)


def agent(url: str, **options: Any) -> Agent[None, Any]:
    model = OpenAIChatModel("default", provider=OpenAIProvider(base_url=url, api_key="none"))
    return Agent(model, model_settings={"temperature": 0, "max_tokens": 60}, retries=0, **options)


def test_a_chat(url: str):
    assert "sea" in agent(url).run_sync("Write one sentence about the sea.").output


async def streamed(url: str) -> str:
    async with agent(url).run_stream("Write one sentence about the sea.") as answer:
        return "".join([piece async for piece in answer.stream_text(delta=True)])


def test_a_stream(url: str):
    assert "sea" in asyncio.run(streamed(url))


@pytest.mark.parametrize("output", [City, NativeOutput(City)], ids=["by a tool", "by response_format"])
def test_a_typed_result(url: str, output: Any):
    assert isinstance(agent(url, output_type=output).run_sync("Tell me of Paris.").output, City)
