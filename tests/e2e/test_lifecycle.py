"""Starting and stopping: every way to start, invalid settings and files, signals."""

import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from ggserve.errors import ModelFileError
from ggserve.model.gguf_model import GGUFModel
from ggserve.server.signals import _SAME
from tests.conftest import ROOT, Server, serve
from tests.processes import PATIENCE, clean_environment


def run(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """A start that is meant to fail."""
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), "--port", "0", *arguments],
        cwd=cwd,
        env={**clean_environment(), **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"ENGINE": "vllm"}, "ENGINE="),
        ({"GPU_LAYERS": "-1"}, "GPU_LAYERS="),
        ({"CONTEXT_LENGTH": "0"}, "CONTEXT_LENGTH="),
        ({"THREADS": "many"}, "THREADS="),
        ({"MODEL_PATH": "/no/such/file.gguf"}, "/no/such/file.gguf"),
        ({"MODEL_NAME": "tests", "MODEL_FILE": "no.gguf"}, "no.gguf"),
        ({"CONTEXT_LENGTH": "100000000"}, "CONTEXT_LENGTH"),
    ],
)
def test_a_setting_that_makes_no_sense_is_one_line_and_exit_code_2(environment, words, tmp_path, default_path):
    ended = run(**{"LOG_DIR": str(tmp_path), **environment})
    assert ended.returncode == 2
    lines = [line for line in ended.stderr.splitlines() if line]
    assert lines[-1].startswith("ggserve: ")
    assert words in lines[-1]
    assert "Traceback" not in ended.stderr


def test_gpu_layers_without_a_cuda_library_say_what_to_do(tmp_path, default_path):
    try:
        import nvidia  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("this machine has the CUDA libraries")
    ended = run(GPU_LAYERS="1", LOG_DIR=str(tmp_path))
    assert ended.returncode == 2
    assert "GPU_LAYERS=0" in ended.stderr.splitlines()[-1]


def corruptions(data: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "magic only": data[:4],
        "cut in the header": data[:100_000],
        "cut in the weights": data[: len(data) // 2],
        "absurd count": data[:8] + b"\xff" * 8 + data[16:],
        "zeros": bytes(1000),
        "web page": b"<!DOCTYPE html><html>",
    }


@pytest.fixture(params=list(corruptions(b"")))
def corrupt(request, tmp_path, shallow_path):
    path = tmp_path / "bad.gguf"
    path.write_bytes(corruptions(shallow_path.read_bytes())[request.param])
    return path


def test_a_corrupt_file_is_an_error_that_names_it(corrupt):
    with pytest.raises(ModelFileError, match=r"bad\.gguf"):
        GGUFModel(corrupt)


@pytest.mark.parametrize("corrupt", ["empty", "cut in the weights"], indirect=True)
def test_a_corrupt_file_is_one_line_and_no_crash(corrupt, tmp_path):
    ended = run(MODEL_PATH=str(corrupt), LOG_DIR=str(tmp_path))
    assert ended.returncode == 2, ended
    assert "bad.gguf" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_help_explains_every_setting():
    ended = run("--help")
    assert ended.returncode == 0
    for option in ("--model-path", "--model-name", "--gpu-layers", "--context-length", "--threads", "--port"):
        assert option in ended.stdout


def test_a_start_without_any_model_says_how_to_get_one(tmp_path):
    code = "import sys, ggserve.app, ggserve.cli; ggserve.app.default_model = lambda folder: None; ggserve.cli.main([])"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**clean_environment(), "PORT": "0"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 2
    assert "MODEL_PATH" in ended.stderr
    assert "make serve" in ended.stderr


def test_importing_main_loads_no_model():
    code = (
        "import sys, main; assert 'ctransformers.llm' not in sys.modules; assert not hasattr(main.app.state, 'ggserve')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=PATIENCE)


@pytest.mark.parametrize("command", [("-m", "uvicorn", "main:app"), ("-m", "uvicorn", "main:app", "--reload")])
def test_uvicorn_starts_the_app_too(command, tmp_path, default_path):
    with serve(tmp_path, command=command) as server:
        answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": "Hi", "max_tokens": 2})
        assert answer.status_code == 200
    assert server.process.returncode == 0, server.log("console")


def test_a_dotenv_file_and_the_command_line_set_the_same(tmp_path, default_path):
    with serve(tmp_path, "--model-path", str(default_path), "--context-length", "64") as server:
        assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["context_length"] == 64


def draining(seconds: float) -> tuple[str, str]:
    """The command of a server that gives running answers so many seconds when it stops."""
    patch = f"import ggserve.server.signals as signals; signals.DRAIN_SECONDS = {seconds}"
    return "-c", f"import sys, ggserve.cli; {patch}; ggserve.cli.main(sys.argv[1:])"


def stop_listening(server: Server) -> None:
    """Send a signal, and wait until another one counts as the second."""
    server.process.terminate()
    deadline = time.monotonic() + PATIENCE
    with suppress(httpx.TransportError):
        while httpx.get(f"{server.url}/livez"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    time.sleep(_SAME + 0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_a_running_answer_end(number, tmp_path, shallow_path):
    with serve(tmp_path, command=draining(PATIENCE), MODEL_PATH=str(shallow_path)) as server:
        body = {"prompt": "Once upon a time", "max_tokens": 300, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body) as response:
            chunks = response.iter_raw()
            next(chunks)
            server.process.send_signal(number)
            rest = b"".join(chunks)
        assert rest.endswith(b"data: [DONE]\n\n")
        assert b'"finish_reason":"length"' in rest
        assert server.process.wait(PATIENCE) == 0
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{server.url}/health")
    assert "Traceback" not in server.log("console")


def test_an_answer_that_takes_too_long_is_ended(tmp_path, shallow_path):
    with serve(tmp_path, command=draining(0.5), MODEL_PATH=str(shallow_path)) as server:
        body = {"prompt": "Once upon a time", "max_tokens": 6000, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body) as response:
            chunks = response.iter_raw()
            next(chunks)
            server.process.send_signal(signal.SIGTERM)
            rest = b"".join(chunks)
        assert b"event: error" in rest
        assert rest.endswith(b"data: [DONE]\n\n")
        assert server.process.wait(PATIENCE) == 0


def test_a_second_signal_ends_answers_at_once_with_an_error_event(tmp_path, shallow_path):
    with serve(tmp_path, MODEL_PATH=str(shallow_path)) as server:
        body = {"prompt": "Once upon a time", "max_tokens": 6000, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body) as response:
            chunks = response.iter_raw()
            next(chunks)
            stop_listening(server)
            server.process.terminate()
            rest = b"".join(chunks)
        assert b"shutting_down" in rest
        assert rest.endswith(b"data: [DONE]\n\n")
        assert server.process.wait(PATIENCE) == 0
    assert "Traceback" not in server.log("console")


def test_prompts_are_logged_when_asked_for(tmp_path, shallow_path):
    with serve(tmp_path, MODEL_PATH=str(shallow_path), LOG_PROMPTS="1") as server:
        body = {"prompt": "My secret is 4711", "max_tokens": 2}
        answer = httpx.post(f"{server.url}/v1/completions", json=body).json()
    assert "prompt 'My secret is 4711'" in server.log("model.log")
    assert repr(answer["choices"][0]["text"]) in server.log("model.log")
