"""Downloads with the real hub library, in processes of their own, from a hub that the tests serve."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from ggserve.hub.companions import projector_beside
from ggserve.modelfile.gguf import read_gguf
from tests.conftest import ROOT, serve
from tests.engines.tiny_companions import write_projector
from tests.engines.tiny_models import write_tiny_model
from tests.hub.loopback_hub import Hub, Repo, running_hub
from tests.processes import PATIENCE

FIND = """
import logging, sys
from ggserve.errors import ModelFileError
from ggserve.hub.find import find_model_file
logging.basicConfig(level="INFO", format="%(message)s")
try:
    print(find_model_file(*sys.argv[1:]))
except ModelFileError as error:
    sys.exit(f"error: {error}")
"""
LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
SMALL = b"GGUF" + bytes(1000)
LARGE = np.random.default_rng(0).bytes(24_000_000)
PIECE = 10 << 20  # bytes that the library writes at a time


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        hub.repos["org/one"] = Repo({"README.md": b"#", "one.Q4_0.gguf": SMALL, "mmproj-f16.gguf": SMALL})
        yield hub


class Machine:
    """A user's environment with its own cache, and the runs in it."""

    def __init__(self, home: Path, hub: Hub) -> None:
        self.home = home
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "HF_HOME": str(home / "hf"),
            "HF_ENDPOINT": hub.url,
            "LOG_DIR": str(home / "logs"),
        }

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def found(self, *arguments: str, **environment: str) -> Path:
        process = self.start("-c", FIND, *arguments, **environment)
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        return Path(out.strip())

    def error(self, *arguments: str, program: str = FIND, **environment: str) -> str:
        """Return the last line that the user sees."""
        process = self.start("-c", program, *arguments, **environment)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1
        assert "Traceback" not in err
        return err.strip().splitlines()[-1]


@pytest.fixture
def machine(tmp_path: Path, hub: Hub) -> Machine:
    return Machine(tmp_path, hub)


def test_a_file_is_downloaded_once_and_then_found_without_the_network(machine: Machine, hub: Hub) -> None:
    path = machine.found("org/one")
    assert path.name == "one.Q4_0.gguf"
    assert path.read_bytes() == SMALL
    assert path.is_relative_to(machine.home / "hf" / "hub" / "models--org--one" / "snapshots")
    before = len(hub.requests)
    assert machine.found("org/one", "one.Q4_0.gguf") == path
    assert machine.found("org/one", HF_HUB_OFFLINE="1") == path
    assert len(hub.requests) == before


def test_all_parts_of_a_model_are_downloaded(machine: Machine, hub: Hub) -> None:
    parts = {f"q4/m-0000{number}-of-00002.gguf": SMALL + bytes([number]) for number in (1, 2)}
    hub.repos["org/parts"] = Repo({**parts, "other.gguf": SMALL})
    first = machine.found("org/parts", "q4/m-00002-of-00002.gguf")
    assert {f"q4/{path.name}": path.read_bytes() for path in first.parent.iterdir()} == parts
    assert first.name == "m-00001-of-00002.gguf"
    before = len(hub.requests)
    assert machine.found("org/parts", HF_HUB_OFFLINE="1") == first
    assert len(hub.requests) == before
    (first.parent / "m-00002-of-00002.gguf").unlink()
    assert "is not in the cache" in machine.error("org/parts", "q4/m-00001-of-00002.gguf", HF_HUB_OFFLINE="1")
    assert machine.found("org/parts", "q4/m-00001-of-00002.gguf") == first
    assert (first.parent / "m-00002-of-00002.gguf").read_bytes() == parts["q4/m-00002-of-00002.gguf"]


def test_a_quantization_names_a_file(machine: Machine, hub: Hub) -> None:
    hub.repos["org/many"] = Repo({"m.Q4_K_M.gguf": SMALL, "m.Q8_0.gguf": SMALL})
    path = machine.found("org/many:q4_k_m")
    assert path.name == "m.Q4_K_M.gguf"
    assert machine.found("org/many@main:Q4_K_M", HF_HUB_OFFLINE="1") == machine.found("org/many", "Q4_K_M") == path
    hub.repos["org/usual"] = Repo({"m.Q4_K_M.gguf": SMALL, "m.Q8_0.gguf": SMALL, "m-f16.gguf": SMALL})
    path = machine.found("org/usual")
    assert path.name == "m.Q4_K_M.gguf"
    assert machine.found("org/usual:q8_0").name == "m.Q8_0.gguf"
    assert machine.found("org/usual", HF_HUB_OFFLINE="1") == path
    assert "there is no file Q2_K in org/many; it has m.Q4_K_M.gguf" in machine.error("org/many:Q2_K")


def test_a_model_that_sees_comes_with_its_projector(machine: Machine, hub: Hub) -> None:
    sees = write_projector(machine.home / "mmproj.gguf").read_bytes()
    model = write_tiny_model(machine.home, "qwen2").read_bytes()
    hub.repos["org/sees"] = Repo({"q4/m-Q4_K_M.gguf": model, "mmproj-F16.gguf": sees, "mmproj-F32.gguf": sees + b"x"})
    path = machine.found("org/sees")
    snapshot = path.parents[1]
    assert [each.name for each in snapshot.glob("*.gguf")] == ["mmproj-F16.gguf"]
    assert projector_beside(read_gguf(path)) == snapshot / "mmproj-F16.gguf"
    hub.repos["org/cut"] = Repo({"m.gguf": model, "mmproj.gguf": sees + bytes(24_000_000)}, stall=12_000_000)
    server = machine.start("main.py", "--port", "0", MODEL_NAME="org/cut")
    assert hub.stalled.wait(PATIENCE)
    server.kill()
    server.communicate(timeout=PATIENCE)
    hub.repos["org/cut"].stall = None
    assert projector_beside(read_gguf(machine.found("org/cut"))) is not None  # the model was not cached without it


def test_a_broken_connection_is_taken_up_again(machine: Machine, hub: Hub) -> None:
    hub.repos["org/large"] = Repo({"large.gguf": LARGE}, cuts=[12_000_000])
    assert machine.found("org/large").read_bytes() == LARGE
    ranges = [request.headers.get("range") for request in hub.gets()]
    assert ranges == [None, f"bytes={PIECE}-"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_server_goes_on_where_its_download_stopped(
    machine: Machine, hub: Hub, number: signal.Signals
) -> None:
    hub.repos["org/large"] = Repo({"large.gguf": LARGE}, stall=12_000_000)
    server = machine.start("main.py", "--port", "0", MODEL_NAME="org/large")
    assert hub.stalled.wait(PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while not any(part.stat().st_size >= PIECE for part in (machine.home / "hf").rglob("*.incomplete")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    server.send_signal(number)
    _, err = server.communicate(timeout=PATIENCE)
    assert server.returncode == 130
    assert "Traceback" not in err
    assert err.strip().endswith("ggserve: interrupted while loading")
    hub.repos["org/large"].stall = None
    assert machine.found("org/large").read_bytes() == LARGE
    assert hub.gets()[-1].headers["range"] == f"bytes={PIECE}-"


def test_of_two_that_start_at_once_one_downloads(machine: Machine, hub: Hub) -> None:
    hub.repos["org/large"] = Repo({"large.gguf": LARGE})
    both = [machine.start("-c", FIND, "org/large") for _ in range(2)]
    paths = {process.communicate(timeout=PATIENCE)[0].strip() for process in both}
    assert len(paths) == 1
    assert Path(paths.pop()).read_bytes() == LARGE
    assert len(hub.gets()) == 1


def test_the_token_goes_to_the_hub_and_nowhere_else(machine: Machine, hub: Hub) -> None:
    hub.token = "hf_secret"
    machine.found("org/one", HF_TOKEN="hf_secret")
    sent = {request.path.startswith("/cdn/"): request.headers.get("authorization") for request in hub.requests}
    assert sent == {False: "Bearer hf_secret", True: None}


def test_a_revision_has_its_own_files(machine: Machine, hub: Hub) -> None:
    hub.repos["org/one"].revisions["v2"] = {"new/two.bin": SMALL[::-1]}
    path = machine.found("org/one@v2")
    assert path.read_bytes() == SMALL[::-1]
    assert path.parts[-2:] == ("new", "two.bin")
    assert machine.error("org/one@v3") == "error: org/one has no revision v3"


def test_several_files_are_listed_smallest_first(machine: Machine, hub: Hub) -> None:
    hub.repos["org/many"] = Repo({"b.Q8_0.gguf": bytes(2_345_678), "a.Q4_0.gguf": SMALL, "config.json": b"{}"})
    listing = "it has a.Q4_0.gguf (1.00 kB), b.Q8_0.gguf (2.35 MB)"
    assert machine.error("org/many") == f"error: choose one of the files in org/many with MODEL_FILE; {listing}"
    assert machine.error("org/many", "c.gguf") == f"error: there is no file c.gguf in org/many; {listing}"
    assert machine.found("org/many", "b.Q8_0.gguf").stat().st_size == 2_345_678


def test_what_the_hub_refuses_is_said_in_one_line(machine: Machine, hub: Hub) -> None:
    hub.repos["org/gated"] = Repo({"a.gguf": SMALL}, gated=True)
    hub.token = "hf_right"
    missing = f"error: there is no folder org/nothing here and no such repository on {hub.url}"
    assert machine.error("org/nothing").startswith(missing)
    assert machine.error("org/nothing", HF_TOKEN="hf_right").startswith(missing)
    assert machine.error("org/gated").startswith(
        f"error: org/gated is gated: request access at {hub.url}/org/gated, and set HF_TOKEN"
    )
    assert "check the token in HF_TOKEN" in machine.error("org/one", HF_TOKEN="hf_wrong")
    hub.down = 503
    assert machine.error("org/one") == f"error: {hub.url} answered 503 for org/one: try again later"


def test_no_network(machine: Machine, hub: Hub) -> None:
    hub.shutdown()
    hub.server_close()
    assert machine.error("org/one").startswith(f"error: no connection to {hub.url} for org/one (")
    assert re.match(
        r"error: HF_HUB_OFFLINE is set, but a.gguf of org/one is not in the cache \S+, which has none of its files",
        machine.error("org/one", "a.gguf", HF_HUB_OFFLINE="1"),
    )


def test_a_variable_that_keeps_a_download_from_working_is_named(machine: Machine, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = machine.error("org/one", HF_HOME=str(tmp_path / "file" / "hf"))
    assert f"{tmp_path}/file" in error
    assert error.endswith("set HF_HOME to a writable folder")
    assert "SSL_CERT_FILE=/nowhere.pem" in machine.error("org/one", SSL_CERT_FILE="/nowhere.pem")
    for scheme in ("socks5", "socks5h"):
        error = machine.error("org/one", ALL_PROXY=f"{scheme}://127.0.0.1:1", NO_PROXY="")
        assert error.startswith(f"error: no connection to {hub.url}")


def test_a_damaged_download_is_not_kept(machine: Machine, hub: Hub) -> None:
    repo = hub.repos["org/one"]
    repo.sent = SMALL[:-1]
    assert "has the wrong size: start again" in machine.error("org/one")
    repo.sent = SMALL[::-1]
    assert "was damaged in the download (wrong SHA-256): start again" in machine.error("org/one")
    repo.sent = None
    assert machine.found("org/one").read_bytes() == SMALL


def test_neither_a_name_nor_a_hub_leads_out_of_the_cache(machine: Machine, hub: Hub, tmp_path: Path) -> None:
    outside = tmp_path / "hf" / "outside"
    outside.mkdir(parents=True)
    (outside / "one.Q4_0.gguf").write_bytes(SMALL)
    for revision in ("../../../outside", "..", "a/../..", "/etc", ".git"):
        assert "is not a revision of org/one" in machine.error(f"org/one@{revision}")
    hub.repos["org/etag"] = Repo({"a.gguf": SMALL}, etag="../../../outside/etag")
    assert "does not respond like a Hugging Face hub: ETag '../../../outside/etag' of a.gguf" in machine.error(
        "org/etag"
    )
    hub.repos["org/file"] = Repo({"../../../../outside/file.gguf": SMALL})
    machine.error("org/file")
    assert [path.name for path in outside.iterdir()] == ["one.Q4_0.gguf"]


def test_a_full_disk(machine: Machine, hub: Hub) -> None:
    hub.repos["org/large"] = Repo({"large.gguf": LARGE})
    # A limit on the size of files fails the write in the middle, as a disk that fills up meanwhile.
    error = machine.error("org/large", program=LIMITED + FIND)
    assert error == "error: org/large cannot be downloaded: File too large"
    hub.repos["org/large"].size = 10**16
    assert re.match(
        r"error: large.gguf needs 10000000.00 GB of disk space in \S+, "
        r"but \d+.\d\d GB are free: free some space, or set HF_HOME",
        machine.error("org/large"),
    )


def test_the_server_answers_from_a_repository(machine: Machine, hub: Hub, shallow_path: Path) -> None:
    hub.repos["org/SmolLM2-GGUF"] = Repo({"smollm2.Q4_1.gguf": shallow_path.read_bytes()})
    environment = {**machine.environment, "MODEL_NAME": "org/SmolLM2-GGUF", "MODEL_FILE": "smollm2.Q4_1.gguf"}
    environment.pop("LOG_DIR")
    with serve(machine.home / "logs", CONTEXT_LENGTH="256", **environment) as server:
        assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
        assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["id"] == "smollm2.Q4_1"
        size = f"{shallow_path.stat().st_size / 1e6:.2f} MB"
        assert f"downloading smollm2.Q4_1.gguf ({size}) from org/SmolLM2-GGUF" in server.log("model.log")
