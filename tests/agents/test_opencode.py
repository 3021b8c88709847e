"""opencode, over chat completions."""

import json

import pytest

from tests.agents.conftest import Agent
from tests.agents.proxy import Proxy
from tests.agents.sessions import COMMAND, check_sigterm, check_tool_loop


@pytest.fixture
def command(agent: Agent, proxy: Proxy) -> list[str]:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{proxy.url}/v1"},
        "models": {"default": {"limit": {"context": 8192, "output": 2048}}},
    }
    config = {
        "model": "ggserve/default",
        "small_model": "ggserve/default",
        "share": "disabled",
        "autoupdate": False,
        "provider": {"ggserve": provider},
        "agent": {"build": {"prompt": "You are a coding agent."}},
    }
    folder = agent.home / ".config/opencode"
    folder.mkdir(parents=True)
    (folder / "opencode.json").write_text(json.dumps(config))
    agent.environment |= {"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_LSP_DOWNLOAD": "1"}
    return ["opencode", "run"]


def test_a_tool_loop(agent: Agent, proxy: Proxy, command: list[str]):
    check_tool_loop(agent, command, proxy, "bash", {"command": COMMAND, "description": "Writes the file"})


def test_sigterm(agent: Agent, proxy: Proxy, command: list[str], server: str):
    check_sigterm(agent, command, proxy, server, "bash")
