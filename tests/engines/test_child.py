"""llama.cpp in a child process: its life, its input, and errors before it starts."""

import asyncio
import ctypes
import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from ggserve.engines.llama_cpp.build import read_build
from ggserve.engines.llama_cpp.completion_reader import CompletionReader
from ggserve.engines.llama_cpp.job_object import Limits
from ggserve.engines.llama_cpp.listener import _Body
from ggserve.errors import EngineError, EngineUnavailable, GenerationError
from ggserve.generation import Grammar, SamplingParams
from ggserve.model.gguf_model import GGUFModel
from ggserve.prompt_progress import PromptProgress
from tests.answers import answer, collect
from tests.conftest import ROOT, SMALL
from tests.llama_server import LIST_A_GPU, launcher
from tests.processes import PATIENCE, clean_environment

GREEDY = SamplingParams(max_tokens=8, temperature=0)
PROMPT = "The three primary colours are"


@contextmanager
def loaded(path: Path, server: Path, **options: object) -> Iterator[GGUFModel]:
    model = GGUFModel(path, **{**SMALL, "llama_server": str(server), **options})
    try:
        yield model
    finally:
        model.close()


def process(model: GGUFModel) -> psutil.Process:
    return psutil.Process(model.engine._transport._server._process.pid)  # type: ignore[union-attr]


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def killed(model: GGUFModel) -> None:
    """Wait until the current child is dead and this was noticed."""
    server = model.engine._transport._server  # type: ignore[union-attr]
    server.wait()
    before = server._process
    os.kill(before.pid, signal.SIGKILL)
    wait_for(lambda: server._process is not before or server._failure is not None)


def test_a_death_costs_running_requests_only_and_those_that_wait_go_on(shallow_original_path: Path, tmp_path: Path):
    async def three(model: GGUFModel) -> tuple[list[object], str]:
        params = dataclasses.replace(GREEDY, max_tokens=8000, ignore_eos=True)
        begun = [PromptProgress(), PromptProgress()]
        each = (dataclasses.replace(params, progress=progress) for progress in begun)
        running = [asyncio.ensure_future(collect(model.complete(PROMPT, one))) for one in each]
        while not all(progress.total for progress in begun):  # a request that has not begun is sent again
            await asyncio.sleep(0.01)
        waiting = asyncio.ensure_future(collect(model.complete(PROMPT, GREEDY)))
        while not model.engine.pool.queued:
            await asyncio.sleep(0.01)
        process(model).kill()
        return await asyncio.gather(*running, return_exceptions=True), (await waiting)[0]

    with loaded(shallow_original_path, launcher(tmp_path), context_length=8192) as model:
        alone = answer(model.complete(PROMPT, GREEDY))[0]
        failed, text = asyncio.run(three(model))
        assert all(isinstance(error, GenerationError) for error in failed)
        assert text == alone
        assert model.occupancy.idle == 2


def test_a_request_that_was_broken_off_uses_no_more_of_a_shared_cache(original_path: Path, tmp_path: Path):
    memory = original_path.stat().st_size + (60 << 20)  # bytes: too little for a cache for each slot
    server = launcher(tmp_path)
    if not read_build(str(server)).has("--kv-unified") and os.environ.get("TEST_LLAMA_SERVER"):
        pytest.skip("the slots of the build cannot share a cache")
    with loaded(original_path, server, context_length=1024, memory=memory) as model:
        transport = model.engine._transport  # type: ignore[union-attr]
        body = {"prompt": [*range(100, 1000)], "n_predict": 1, "stream": True, "return_progress": True, "id_slot": 1}
        transport.complete(body, lambda chunk: True)
        slots = transport._server.listener.slots()
        assert [slot["is_processing"] for slot in slots] == [False, False]


def test_five_deaths_in_a_row_make_the_model_unavailable(shallow_original_path: Path, tmp_path: Path):
    told: list[str] = []
    with loaded(shallow_original_path, launcher(tmp_path)) as model:
        model.when_failed(told.append)
        for _ in range(4):
            killed(model)
        with pytest.raises(EngineUnavailable, match="crashed 5 times in a row: killed by SIGKILL"):
            killed(model)
            answer(model.complete(PROMPT, GREEDY))
        wait_for(lambda: told)
        assert "crashed 5 times in a row" in told[0]


def test_it_ends_with_its_parent_however_that_ends(shallow_original_path: Path, tmp_path: Path):
    code = (
        "import sys, time; from ggserve.model.gguf_model import GGUFModel\n"
        "model = GGUFModel(sys.argv[1], context_length=64, parallel=1, threads=1, llama_server=sys.argv[2])\n"
        "print(model.engine._transport._server._process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(shallow_original_path), str(launcher(tmp_path))],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    child.wait(PATIENCE)


@pytest.mark.skipif(sys.maxsize < 2**32, reason="sizes of a 64-bit process")
def test_the_limits_of_a_job_object_are_laid_out_as_windows_has_them():
    assert (Limits.flags.offset, Limits.io_counters.offset, ctypes.sizeof(Limits)) == (16, 64, 144)


def test_it_lives_on_when_the_thread_that_loaded_the_model_ends(shallow_original_path: Path, tmp_path: Path):
    models: list[GGUFModel] = []
    server = str(launcher(tmp_path))
    thread = threading.Thread(
        target=lambda: models.append(GGUFModel(shallow_original_path, **SMALL, llama_server=server))
    )
    thread.start()
    thread.join()
    child = process(models[0])
    answer(models[0].complete(PROMPT, GREEDY))
    assert process(models[0]) == child
    models[0].close()
    assert not child.is_running()


def test_it_inherits_no_socket_and_the_environment_that_it_needs(
    shallow_original_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "8")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.set_inheritable(True)
        inode = os.fstat(listening.fileno()).st_ino
        with loaded(shallow_original_path, launcher(tmp_path)) as model:
            child = process(model)
            folder = model.engine._transport._server.listener.folder  # type: ignore[union-attr]
            assert folder.stat().st_mode & 0o777 == 0o700
            held = [os.readlink(each) for each in Path(f"/proc/{child.pid}/fd").iterdir()]
            assert f"socket:[{inode}]" not in held
            environment = child.environ()
    assert environment["GGML_NO_BACKTRACE"] == "1"
    assert int(environment["GOMP_SPINCOUNT"]) < 300_000
    assert "LLAMA_ARG_CTX_SIZE" not in environment
    assert not folder.exists()


def test_no_grammar_is_for_llguidance(child_model: GGUFModel, monkeypatch: pytest.MonkeyPatch):
    bodies: list[bytes] = []
    listener = child_model.engine._transport._server.listener  # type: ignore[union-attr]
    stream = listener.stream

    def noted(path: str, body: bytes, cancelled: Callable[[], bool]) -> Iterator[bytes]:
        if b'"grammar"' in body:
            bodies.append(body)
        return stream(path, body, cancelled)

    monkeypatch.setattr(listener, "stream", noted)
    for grammar in (Grammar("choice", '["red", "blue"]'), Grammar("json_schema", '{"type": "boolean"}')):
        answer(child_model.complete(PROMPT, dataclasses.replace(GREEDY, grammar=grammar)))
    assert len(bodies) == 2
    assert all(b"root ::= " in body and b"llguidance" not in body for body in bodies)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("-c 8", "-c is set by ggserve itself; set CONTEXT_LENGTH instead"),
        ("--check-tensors --threads 5", "--threads is set by ggserve itself; set THREADS instead"),
        ("--gpu-layers 5", "--gpu-layers is set by ggserve itself; set GPU_LAYERS instead"),
        ("--embeddings", "--embeddings is set by ggserve itself; leave it out"),
        ("--no-such-flag", "has no --no-such-flag"),
        ("'", "LLAMA_ARGS="),
    ],
)
def test_llama_args_that_cannot_be_passed_on_are_refused_by_name(
    shallow_original_path: Path, tmp_path: Path, arguments: str, message: str
):
    server = str(launcher(tmp_path))
    if "--gpu-layers" in arguments and not read_build(server).has("--gpu-layers"):
        pytest.skip("the build uses no GPU")
    with pytest.raises(EngineError, match=re.escape(message)):
        GGUFModel(shallow_original_path, **SMALL, llama_server=server, llama_args=arguments)


def test_llama_args_are_passed_on(shallow_original_path: Path, tmp_path: Path):
    with loaded(shallow_original_path, launcher(tmp_path), llama_args="--check-tensors") as model:
        assert "--check-tensors" in process(model).cmdline()


def test_a_start_that_fails_on_the_gpu_is_tried_with_less_of_it(shallow_original_path: Path, tmp_path: Path):
    fails = """case "$*" in *"--n-gpu-layers 999"*) echo "load_tensors: offloaded 20/31 layers to GPU"; exit 1;; esac"""
    with loaded(shallow_original_path, launcher(tmp_path, before=LIST_A_GPU + fails)) as model:
        assert model.hardware.fallback == "10 layers on the GPU: llama-server did not start: exit code 1"
        assert "10" in process(model).cmdline()
    fails = """case "$*" in *"--n-gpu-layers 0"*) ;; *--n-gpu-layers*) kill -SEGV $$;; esac"""
    with loaded(shallow_original_path, launcher(tmp_path, before=LIST_A_GPU + fails)) as model:
        assert model.hardware.fallback == "no GPU: llama-server did not start: killed by SIGSEGV"
        assert answer(model.complete(PROMPT, GREEDY))[0]


def test_a_number_of_layers_that_the_user_chose_is_never_changed(shallow_original_path: Path, tmp_path: Path):
    fails = """case "$*" in *"--n-gpu-layers 7"*) echo "error: out of GPU memory"; exit 1;; esac"""
    server = launcher(tmp_path, before=LIST_A_GPU + fails)
    with pytest.raises(EngineError, match=r"GPU_LAYERS=7: .*out of GPU memory.*set GPU_LAYERS=0, or auto"):
        GGUFModel(shallow_original_path, **SMALL, llama_server=str(server), gpu_layers=7)


def test_three_deaths_within_a_minute_on_the_gpu_end_its_use(shallow_original_path: Path, tmp_path: Path):
    with loaded(shallow_original_path, launcher(tmp_path, before=LIST_A_GPU)) as model:
        assert model.hardware.fallback is None
        for _ in range(3):
            killed(model)
        assert answer(model.complete(PROMPT, GREEDY))[0]
        assert "crashed 3 times within a minute on the GPU" in (model.hardware.fallback or "")


def not_executable(folder: Path) -> Path:
    path = folder / "plain"
    path.write_text("text")
    return path


def other_program(folder: Path) -> Path:
    return Path("/bin/true")


def no_program(folder: Path) -> Path:
    path = folder / "broken"
    path.write_bytes(b"\x7fELF")
    path.chmod(0o755)
    return path


def dies_at_start(folder: Path) -> Path:
    return launcher(folder, before='case "$*" in *--model*) echo "error: no such kernel"; exit 3;; esac')


def knows_fewer_options_than_it_says(folder: Path) -> Path:
    refusal = 'case "$*" in *--embeddings*) echo "error: invalid argument: --embeddings"; exit 1;; esac'
    return launcher(folder, before=refusal)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "absent", "no such file"),
        (not_executable, "the file is not executable"),
        (other_program, "not a llama-server"),
        (no_program, "cannot be run"),
        (dies_at_start, r"did not start: no such kernel \(exit code 3\)"),
        (knows_fewer_options_than_it_says, r"did not start: invalid argument: --embeddings \(exit code 1\)"),
    ],
)
def test_a_bad_llama_server_is_one_line_and_exit_code_2(
    shallow_original_path: Path, tmp_path: Path, make: Callable[[Path], Path], message: str
):
    server = make(tmp_path)
    ended = subprocess.run(
        [sys.executable, "main.py", "--port", "0"],
        cwd=ROOT,
        env={
            **clean_environment(),
            "MODEL_PATH": str(shallow_original_path),
            "LLAMA_SERVER": str(server),
            "LOG_DIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"ggserve: LLAMA_SERVER={server}")
    assert re.search(message, last)
    assert not [each for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(each.info["cmdline"])]


def test_the_help_of_builds_old_and_new_is_understood(tmp_path: Path):
    old = tmp_path / "llama-server"
    entries = [
        "  -m,    --model FNAME            model path",
        "         --host HOST              ip address to listen (default: 127.0.0.1)",
        "         --port PORT              port to listen",
        "  -c,    --ctx-size N             size of the prompt context (see --parallel)",
        "  -np,   --parallel N             number of parallel sequences",
        "  -t,    --threads N              number of threads",
        "  -ngl,  --gpu-layers N, --n-gpu-layers N",
        "                                  number of layers to store in VRAM, -1 for all",
    ]
    old.write_text("#!/bin/sh\ncat <<END\ngeneral:\n\n" + "\n".join(entries) + "\nEND\n")
    old.chmod(0o755)
    build = read_build(str(old))
    assert build.aliases["--gpu-layers"] == {"-ngl", "--gpu-layers", "--n-gpu-layers"}
    assert build.aliases["-c"] == {"-c", "--ctx-size"}
    assert not build.has("-1")
    assert (build.devices, build.version) == ((), "of unknown version")
    assert "127.0.0.1" in build.flag_help("--host")


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("head", [b"Transfer-Encoding: chunked", b"Content-Length: 11", b"Server: x"])
def test_an_answer_that_comes_in_pieces_is_that_in_one(size: int, head: bytes):
    body = b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n" if b"chunked" in head else b"hello world"
    whole = b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + body
    reading = _Body()
    parts = [whole[start : start + size] for start in range(0, len(whole), size)]
    text = b"".join(reading.feed(part) for part in parts)
    assert text == b"hello world"
    if reading.ends_by_closing:
        assert not reading.complete
        reading.feed(b"")
    assert reading.complete


def test_what_older_builds_leave_out_is_made_up_for():
    reader = CompletionReader({"prompt": [1, 2, 3], "stream": True})
    pieces = (
        '{"content":"a","stop":false}',
        '{"content":"","stop":true,"stopped_limit":true,"timings":{"prompt_n":1}}',
    )
    lines = "".join(f"data: {piece}\n\n" for piece in pieces).encode()
    chunks = [chunk for byte in range(len(lines)) for chunk in reader.feed(lines[byte : byte + 1])]
    assert reader.complete
    assert [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk] == [
        {"total": 3, "cache": 0},
        {"total": 3, "cache": 2},
    ]
    answers = [chunk for chunk in chunks if "choices" in chunk]
    assert [chunk["timings"]["predicted_n"] for chunk in answers] == [1, 1]
    assert answers[-1]["choices"][0]["finish_reason"] == "length"
    assert answers[-1]["usage"] == {"completion_tokens": 1}


def test_an_answer_that_ends_within_a_character_ends_as_others_do():
    error = b'{"error":{"code":500,"message":"... that does not match the expected Content-only format"}}'
    for most, reason in ((2, "length"), (9, "stop")):
        reader = CompletionReader({"prompt": [1], "stream": True, "n_predict": most})
        chunks = list(reader.feed(b'data: {"content":"a","stop":false}\n\ndata: ' + error + b"\n\n"))
        assert chunks[-1]["choices"][0] == {"text": "", "finish_reason": reason, "logprobs": None}
        assert chunks[-1]["usage"] == {"completion_tokens": 1}
    reader = CompletionReader({"prompt": [1], "stream": False})
    assert list(reader.feed(error)) == []
    assert [chunk["choices"][0]["logprobs"] for chunk in reader.rest() if "choices" in chunk] == [None]


def test_an_error_is_read_whether_it_is_streamed_or_not():
    for answered in (b'{"error":{"code":400,"message":"no"}}', b'error: {"code":400,"message":"no"}\n\n'):
        reader = CompletionReader({"prompt": [1], "stream": True})
        chunks = [*reader.feed(answered), *reader.rest()]
        assert [chunk["error"]["message"] for chunk in chunks] == ["no"]
