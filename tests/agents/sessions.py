"""The sessions that an agent must come through."""

import signal

from tests.agents.conftest import Agent, eventually, group_exists, is_idle
from tests.agents.proxy import Proxy, Script

COMMAND = "echo line >> lines.txt; wc -l lines.txt"
CALLS = 2
LONG = " ".join(["word"] * 1500)


def check_tool_loop(agent: Agent, command: list[str], proxy: Proxy, tool: str, arguments: dict[str, str]) -> None:
    """The agent runs COMMAND, which is among the arguments of this tool, as often as the model calls it, and gets the
    results into the next requests, which use the prompt cache."""
    proxy.script = Script(("Done.",), tool, arguments, CALLS)
    assert "Done." in agent.run(*command, "Write the file.")
    assert {each.status for each in proxy.exchanges} == {200}
    assert (agent.project / "lines.txt").read_text() == "line\n" * CALLS
    first, second, last = proxy.session
    for number, result in enumerate(last.tool_results, 1):
        assert f"{number} lines.txt" in result
    assert second.usage.cached > 0.9 * first.usage.prompt
    assert last.usage.cached > 0


def check_sigterm(agent: Agent, command: list[str], proxy: Proxy, server: str, tool: str | None = None) -> None:
    """An agent that is ended in the middle of an answer leaves no process, and the server stops the answer."""
    proxy.script = Script((LONG,), tool)
    with agent.started(*command, "Write many words.") as process:
        assert eventually(lambda: any(b"word word" in each.text for each in proxy.exchanges), 120), agent.output
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        assert eventually(lambda: not group_exists(process.pid))
    assert eventually(lambda: is_idle(server))
    assert all(each.text.count(b"word") < LONG.count("word") for each in proxy.exchanges)
