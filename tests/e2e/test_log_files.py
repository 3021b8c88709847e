"""Log files that cannot be written while the server serves: one line on the console, and answers continue."""

import resource
from pathlib import Path

import httpx
import psutil
import pytest

from ggserve.server.logs import MAX_BYTES
from tests.conftest import FAMILY_FILES, Server, serve

_KEPT = 100_000  # bytes of main.log from before: more than the console gets


def fill_disk(server: Server) -> None:
    """No file may grow larger than main.log already is: for it, the disk is full."""
    size = (server.log_dir / "main.log").stat().st_size
    for process in psutil.Process(server.process.pid).children() or [psutil.Process(server.process.pid)]:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))


def refuse_rotation(server: Server) -> None:
    """The full file cannot be rotated, as in a read-only folder."""
    (server.log_dir / "main.log.2").touch()
    (server.log_dir / "main.log.3").mkdir()
    with (server.log_dir / "main.log").open("ab") as file:
        file.truncate(MAX_BYTES)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
@pytest.mark.parametrize("harm", [fill_disk, refuse_rotation])
def test_answers_go_on_without_a_log(harm, tmp_path: Path):
    (tmp_path / "main.log").write_text("x" * (_KEPT - 1) + "\n")
    with serve(tmp_path, MODEL_PATH=str(FAMILY_FILES / "llama.f16.v2.gguf")) as server:
        harm(server)
        for _ in range(3):
            body = {"prompt": "a", "max_tokens": 2}
            assert httpx.post(f"{server.url}/v1/completions", json=body).status_code == 200
        console = server.log("console")
    assert console.count("ggserve: cannot write") == 1
    assert "Traceback" not in server.log("console")
    assert server.process.returncode == 0
