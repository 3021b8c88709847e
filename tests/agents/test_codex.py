"""Codex, over the Responses API."""

import pytest

from tests.agents.conftest import Agent
from tests.agents.proxy import Proxy
from tests.agents.sessions import COMMAND, check_sigterm, check_tool_loop

CONFIG = """\
model = "default"
model_provider = "ggserve"
model_instructions_file = "{home}/instructions.md"
model_context_window = 8192
web_search = "disabled"
[analytics]
enabled = false
[agents]
enabled = false
[features]
goals = false
[model_providers.ggserve]
name = "ggserve"
base_url = "{url}/v1"
wire_api = "responses"
"""


@pytest.fixture
def command(agent: Agent, proxy: Proxy) -> list[str]:
    folder = agent.home / ".codex"
    folder.mkdir()
    (agent.home / "instructions.md").write_text("You are a coding agent.")
    (folder / "config.toml").write_text(CONFIG.format(home=agent.home, url=proxy.url))
    return ["codex", "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]


def test_a_tool_loop(agent: Agent, proxy: Proxy, command: list[str]):
    check_tool_loop(agent, command, proxy, "exec_command", {"cmd": COMMAND})


def test_sigterm(agent: Agent, proxy: Proxy, command: list[str], server: str):
    check_sigterm(agent, command, proxy, server, "exec_command")
