"""Builds the wheel, installs it in a fresh environment outside the checkout, and asks it for an answer.

`python -m tests.wheel` is a command of its own, because it installs all dependencies.
"""

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from pathlib import Path

from ggserve import __version__
from ggserve.hub.default import packaged_model
from tests.processes import clean_environment, free_port

ROOT = Path(__file__).parent.parent
SECONDS = 120.0  # until the server must be ready


def main() -> None:
    """Exit with an error if anything is wrong."""
    model = packaged_model()
    assert model is not None, "the default model's package is not installed: use `make test-wheel`"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT), cwd=folder)
        (wheel,) = folder.glob("*.whl")
        names = zipfile.ZipFile(wheel).namelist()
        assert {each.partition("/")[0].partition("-")[0] for each in names} == {"ggserve"}, names
        run(sys.executable, "-m", "venv", str(folder / "venv"), cwd=folder)
        run(str(folder / "venv/bin/pip"), "install", "-q", str(wheel), cwd=folder)
        command = str(folder / "venv/bin/ggserve")
        assert run(command, "version", cwd=folder) == f"ggserve {__version__}\n"
        assert "llama.cpp" in run(command, "inspect", str(model), cwd=folder)
        ask(command, model, folder)
    print("1 passed, 0 failed")


def run(*command: str, cwd: Path) -> str:
    return subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True).stdout


def ask(command: str, model: Path, folder: Path) -> None:
    port = free_port()
    environment = {**clean_environment(), "LOG_DIR": str(folder / "logs"), "THREADS": "1"}
    server = subprocess.Popen([command, str(model), "--port", str(port)], cwd=folder, env=environment)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        headers = {"Content-Type": "application/json"}
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as answer:
            assert json.load(answer)["choices"][0]["message"]["content"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
            assert b"<title>" in page.read()
    finally:
        server.terminate()
        assert server.wait(60) == 0


def wait_for(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(url).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server did not become ready")


if __name__ == "__main__":
    main()
