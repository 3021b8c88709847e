"""aider, over chat completions: it has no tools, edits files by text and runs the tests."""

import pytest

from tests.agents.conftest import Agent
from tests.agents.proxy import Proxy, Script
from tests.agents.sessions import check_sigterm

OPTIONS = """--no-git --no-gitignore --no-check-update --no-show-release-notes --no-show-model-warnings --no-detect-urls
--analytics-disable --no-pretty --yes-always --edit-format whole --auto-test"""


@pytest.fixture
def command(agent: Agent, proxy: Proxy) -> list[str]:
    agent.environment |= {"OPENAI_API_KEY": "none"}
    (agent.project / "lines.txt").write_text("empty\n")
    test = ["--test-cmd", "cat lines.txt; grep -q right lines.txt"]
    options = [*OPTIONS.split(), "--openai-api-base", f"{proxy.url}/v1", "--model", "openai/default"]
    return ["aider", *options, *test, "lines.txt", "--message"]


def test_an_edit_is_tested_and_repaired(agent: Agent, proxy: Proxy, command: list[str]):
    proxy.script = Script(tuple(f"lines.txt\n```\n{text}\n```\n" for text in ("wrong", "right")))
    agent.run(*command, "Write the file.")
    first, second = proxy.exchanges
    assert (agent.project / "lines.txt").read_text() == "right\n"
    assert "wrong" not in str(first.body)
    assert "wrong" in second.body["messages"][-1]["content"]
    assert second.usage.cached > 0.5 * first.usage.prompt


def test_sigterm(agent: Agent, proxy: Proxy, command: list[str], server: str):
    check_sigterm(agent, command, proxy, server)
