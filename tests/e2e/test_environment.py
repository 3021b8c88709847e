"""A start in unusual surroundings: ignored signals, closed streams, read-only folders, variables of other programs."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import FAMILY_FILES, ROOT, TEST_SETTINGS, serve
from tests.processes import PATIENCE, clean_environment, free_port

MODEL = str(FAMILY_FILES / "llama.f16.v2.gguf")


def shell(command: str, tmp_path: Path, **environment: str) -> tuple["subprocess.Popen[bytes]", str]:
    """A server that a shell starts: `$serve` in the command."""
    port = free_port()
    settings = {**clean_environment(), **TEST_SETTINGS, "MODEL_PATH": MODEL, "LOG_DIR": str(tmp_path), **environment}
    settings |= {"serve": f"{shlex.quote(sys.executable)} main.py --port {port}"}
    return subprocess.Popen(["sh", "-c", command], cwd=ROOT, env=settings), f"http://127.0.0.1:{port}"


def wait(url: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("command", ["trap '' HUP; exec $serve", "exec $serve <&- >&-", "exec $serve >&- 2>&-"])
def test_it_serves_with_sighup_ignored_and_streams_closed(command: str, tmp_path: Path) -> None:
    process, url = shell(command, tmp_path)
    try:
        wait(url)
        if "HUP" in command:
            for each in (psutil.Process(process.pid), *psutil.Process(process.pid).children()):
                each.send_signal(signal.SIGHUP)
            time.sleep(0.5)
        answer = httpx.post(f"{url}/v1/completions", json={"prompt": "a", "max_tokens": 1})
        assert answer.status_code == 200
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
    assert "Traceback" not in (tmp_path / "main.log").read_text()


def test_without_a_folder_that_can_be_written_it_warns_and_serves(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with serve(tmp_path / "console", MODEL_PATH=MODEL, LOG_DIR=str(tmp_path / "file" / "logs")) as server:
        assert httpx.post(f"{server.url}/v1/completions", json={"prompt": "a", "max_tokens": 1}).status_code == 200
        console = server.log("console")
    assert "no log files, only the console" in console
    assert "Traceback" not in console


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"HOST": "x86_64-conda-linux-gnu"}, "HOST=x86_64-conda-linux-gnu, PORT="),
        ({"PORT": "tcp://10.0.0.1:8000"}, "PORT='tcp://10.0.0.1:8000'"),
        ({"API_KEY_FILE": "/nowhere/keys"}, "API_KEY_FILE=/nowhere/keys"),
    ],
)
def test_a_variable_of_another_program_is_named(variables: dict[str, str], named: str, tmp_path: Path) -> None:
    environment = {**clean_environment(), "MODEL_PATH": MODEL, "LOG_DIR": str(tmp_path), **variables}
    command = [sys.executable, "main.py", *([] if "PORT" in variables else ["--port", str(free_port())])]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 2
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("ggserve: ")]
    assert named in line
    assert "Traceback" not in ended.stderr


def test_names_of_files_may_hold_any_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    content = Path(MODEL).read_bytes()
    bad = os.fsdecode(bytes(folder) + b"/caf\xe9.gguf")
    for path in (bad, folder / "two\nlines\x1b.gguf"):
        Path(path).write_bytes(content)
    with serve(tmp_path / "logs", MODELS_DIR=str(folder)) as server:
        (name,) = [model["id"] for model in httpx.get(f"{server.url}/v1/models").json()["data"]]
        assert name == "two\ufffdlines\ufffd"
        assert [each["name"] for each in httpx.get(f"{server.url}/api/tags").json()["models"]] == [name]
        body = {"model": name, "prompt": "a", "max_tokens": 1}
        assert httpx.post(f"{server.url}/v1/completions", json=body, timeout=PATIENCE).json()["model"] == name
        lines = [*server.log("main.log").splitlines(), *server.log("console").splitlines()]
    assert any("caf\\udce9.gguf: its path is not UTF-8" in line for line in lines)
    assert not any("Traceback" in line or line.startswith("lines") or "\x1b" in line for line in lines)
    environment = {**clean_environment(), "PORT": "0", "MODEL_PATH": bad, "LOG_DIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "main.py"], cwd=ROOT, env=environment, capture_output=True, timeout=PATIENCE
    )
    assert ended.returncode == 2
    assert ended.stderr.count(b"\n") == 1


def test_the_health_check_asks_where_and_how_the_server_listens(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=llm.example", "-days", "1", "-nodes"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-keyout", key, "-out", certificate, *subject]
    subprocess.run(made, check=True, capture_output=True)
    settings = {"SSL_CERTFILE": str(certificate), "SSL_KEYFILE": str(key), "HOST": "::", "API_KEY": "k"}
    process, _ = shell("exec $serve", tmp_path, **settings)
    try:
        port = process_port(process.pid)
        check = [sys.executable, "-m", "ggserve", "health"]
        environment = {**clean_environment(), **settings, "PORT": port}
        deadline = time.monotonic() + PATIENCE
        while subprocess.run(check, cwd=ROOT, env=environment, capture_output=True).returncode:
            assert time.monotonic() < deadline
        environment["PORT"] = str(free_port())
        assert subprocess.run(check, cwd=ROOT, env=environment, capture_output=True).returncode == 1
    finally:
        process.terminate()
        process.wait(PATIENCE)


def process_port(pid: int) -> str:
    """The value of `--port` of a process."""
    command = psutil.Process(pid).cmdline()
    while "--port" not in command:  # it is still the shell
        command = psutil.Process(pid).cmdline()
    return command[command.index("--port") + 1]
