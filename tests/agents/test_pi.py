"""pi, over chat completions."""

import json

import pytest

from tests.agents.conftest import Agent
from tests.agents.proxy import Proxy
from tests.agents.sessions import COMMAND, check_sigterm, check_tool_loop


@pytest.fixture
def command(agent: Agent, proxy: Proxy) -> list[str]:
    model = {
        "id": "default",
        "name": "local",
        "reasoning": False,
        "input": ["text"],
        "contextWindow": 8192,
        "maxTokens": 2048,
        "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
    }
    provider = {"baseUrl": f"{proxy.url}/v1", "api": "openai-completions", "apiKey": "none", "models": [model]}
    folder = agent.home / ".pi/agent"
    folder.mkdir(parents=True)
    (folder / "models.json").write_text(json.dumps({"providers": {"ggserve": provider}}))
    agent.environment |= {"PI_OFFLINE": "1", "PI_TELEMETRY": "0"}
    return ["pi", "--provider", "ggserve", "--model", "default", "-p"]


def test_a_tool_loop(agent: Agent, proxy: Proxy, command: list[str]):
    check_tool_loop(agent, command, proxy, "bash", {"command": COMMAND})


def test_sigterm(agent: Agent, proxy: Proxy, command: list[str], server: str):
    check_sigterm(agent, command, proxy, server, "bash")
