"""The servers under test: how each starts, its readiness, its memory, and its end.

To add one, write a function that returns its `Server` and name it in SERVERS.
"""

import http.client
import importlib.util
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from bench.client import BenchError
from ggserve.settings import Settings

ROOT = Path(__file__).parent.parent
START_TIMEOUT = 60.0  # seconds until a server must be ready
STOP_TIMEOUT = 20.0  # seconds until a server must have ended


@dataclass(frozen=True)
class Setup:
    """The settings that every server gets."""

    original: Path  # the model file as published
    converted: Path  # the same weights, for ctransformers
    threads: int
    context: int  # tokens per slot
    other: Path | None = None  # another checkout of this project


@dataclass(frozen=True)
class Server:
    """The way to start a server. Its command may contain `{port}`."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    health: str = "/health"  # answers 200 once requests are answered
    slots: int = 1  # concurrent answers
    folder: Path = ROOT  # working directory


@dataclass(frozen=True)
class Running:
    """A server that is ready."""

    process: psutil.Process
    url: str
    ready_seconds: float  # from the start of the process
    slots: int
    context: int

    def memory(self) -> int:
        """Return the resident bytes of the process and its children.

        On Linux it is the proportional set size: the resident set size counts weights once for each context that maps
        them. Pages are also divided with other processes that map them, so nothing else may have the model open.
        """
        total = 0
        for process in (self.process, *self.process.children(recursive=True)):
            used = process.memory_full_info()
            total += int(getattr(used, "pss", used.rss))
        return total


def ggserve(setup: Setup, slots: int) -> Server:
    """This project, on ctransformers."""
    return _ggserve(setup, slots, "ctransformers", setup.converted)


def ggserve_llama_cpp(setup: Setup, slots: int) -> Server:
    """This project, on llama.cpp."""
    return _ggserve(setup, slots, "llama.cpp", setup.original)


def other_checkout(setup: Setup, slots: int) -> Server:
    """The `main.py` of another checkout, on ctransformers, with this environment's packages."""
    if setup.other is None:
        raise BenchError("--against does not name another checkout")
    return replace(ggserve(setup, slots), folder=setup.other)


def _ggserve(setup: Setup, slots: int, engine: str, model: Path) -> Server:
    environment = {
        "MODEL_PATH": str(model),
        "ENGINE": engine,
        "THREADS": str(setup.threads),
        "PARALLEL": str(slots),
        "CONTEXT_LENGTH": str(setup.context),
    }
    return Server([sys.executable, "main.py", "--port", "{port}"], environment, slots=slots)


def llama_server(setup: Setup, slots: int) -> Server:
    """llama-server's core and HTTP listener, from xllamacpp. It is started from Python, which adds its own start to the
    load."""
    _need("xllamacpp")
    options = {"port": "{port}", "slots": slots, "context": setup.context, "threads": setup.threads}
    return Server(_module("bench.llama_server", setup.original, options), slots=slots)


def ggserve_defaults(setup: Setup, slots: int) -> Server:
    """This project with default settings."""
    return Server([sys.executable, "main.py", "--port", "{port}"], {"MODEL_PATH": str(setup.converted)}, slots=slots)


def llama_server_defaults(setup: Setup, slots: int) -> Server:
    """llama-server's core with default settings and the number of cores that this process may use."""
    _need("xllamacpp")
    options = {"port": "{port}", "slots": -1, "context": 0, "threads": setup.threads}
    return Server(_module("bench.llama_server", setup.original, options), slots=slots)


def llama_cpp_python(setup: Setup, slots: int) -> Server:
    """llama-cpp-python's server: one answer at a time."""
    _need("llama_cpp")
    options = {"host": "127.0.0.1", "port": "{port}", "n_ctx": setup.context, "n_threads": setup.threads}
    arguments = {"model": setup.original, **options}
    return Server(_module("llama_cpp.server", None, arguments), health="/v1/models")


def naive(setup: Setup, slots: int) -> Server:
    """A few lines of FastAPI around `llm(prompt)`: one answer at a time."""
    return Server([sys.executable, "-m", "bench.naive_server", str(setup.converted), "{port}", str(setup.context)])


def native(setup: Setup, slots: int) -> Server:
    """The llama-server that LLAMA_SERVER names: llama.cpp's, or ik_llama.cpp's."""
    model, context = str(setup.original), str(slots * setup.context)
    numbers = ["--ctx-size", context, "--parallel", str(slots), "--threads", str(setup.threads)]
    return Server([_own_build(), "--model", model, "--port", "{port}", *numbers], slots=slots)


def ggserve_native(setup: Setup, slots: int) -> Server:
    """This project, on llama.cpp in the llama-server that LLAMA_SERVER names."""
    server = _ggserve(setup, slots, "llama.cpp", setup.original)
    return replace(server, environment={**server.environment, "LLAMA_SERVER": _own_build()})


def _own_build() -> str:
    if not (path := os.environ.get("LLAMA_SERVER")):
        raise BenchError("LLAMA_SERVER does not name a llama-server")
    return path


SERVERS: dict[str, Callable[[Setup, int], Server]] = {
    "ggserve": ggserve,
    "llama-server": llama_server,
    "llama-cpp-python": llama_cpp_python,
    "naive": naive,
    "native-llama-server": native,
    "ggserve-native": ggserve_native,
    "ggserve-llama.cpp": ggserve_llama_cpp,
    "other-checkout": other_checkout,
    "ggserve-defaults": ggserve_defaults,
    "llama-server-defaults": llama_server_defaults,
}


def _need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise BenchError(f"the package {package} is not installed")


def _module(name: str, model: Path | None, options: dict[str, object]) -> list[str]:
    arguments = [part for option, value in options.items() for part in (f"--{option}", str(value))]
    return [sys.executable, "-m", name, *([str(model)] if model else []), *arguments]


@contextmanager
def running(server: Server, setup: Setup) -> Iterator[Running]:
    """Start a server, wait until it is ready, and end it. Raises BenchError with the server's last output."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        output = Path(folder) / "output"
        environment = {**clean_environment(), "LOG_DIR": folder, **server.environment}
        command = [part.format(port=port) for part in server.command]
        with output.open("wb") as log:
            started = time.perf_counter()
            process = psutil.Popen(
                command,
                cwd=server.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            ready = _wait_until_ready(process, port, server.health, output) - started
            yield Running(process, f"http://127.0.0.1:{port}", ready, server.slots, setup.context)
            if process.poll() is not None:
                raise BenchError(f"the server exited unexpectedly: {_tail(output)}")
        finally:
            _stop(process)


def _wait_until_ready(process: psutil.Popen, port: int, path: str, output: Path) -> float:
    """Return the time of the first answer, by time.perf_counter()."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BenchError(f"the server exited at startup: {_tail(output)}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return time.perf_counter()
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.01)
    raise BenchError(f"the server was not ready within {START_TIMEOUT:.0f} s: {_tail(output)}")


def _stop(process: psutil.Popen) -> None:
    with suppress(psutil.NoSuchProcess):
        process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(output: Path) -> str:
    lines = output.read_text(errors="replace").split("\n")
    return " | ".join(line for line in lines[-6:] if line)


def clean_environment() -> dict[str, str]:
    """Return the environment without this project's own settings."""
    own = re.compile("|".join(f"{name}$" for name in Settings.model_fields), re.IGNORECASE)
    return {name: value for name, value in os.environ.items() if not own.match(name)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
