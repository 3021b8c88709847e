"""Prompts that are saved across restarts: the same greedy text, only for this model, and no file can do harm."""

import asyncio
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ggserve.engines.llama_cpp.saved_states import SavedStates, fingerprint
from ggserve.errors import InvalidRequest
from ggserve.generation import Delta, SamplingParams
from ggserve.model.gguf_model import GGUFModel
from tests.conftest import ROOT
from tests.engines.tiny_models import write_tiny_model
from tests.processes import PATIENCE

GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
LONG = [5 + (7 * number) % 90 for number in range(300)]


@pytest.fixture(scope="module", params=["qwen2", "gemma3"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"), request.param)


def opened(path: Path, folder: Path | None, **options: Any) -> GGUFModel:
    return GGUFModel(
        path,
        engine="llama.cpp",
        llama_server="off",
        threads=1,
        parallel=options.pop("parallel", 1),
        context_length=512,
        prompt_cache_dir=folder,
        **options,
    )


async def last(model: GGUFModel, prompt: list[int], **changes: Any) -> tuple[str, Delta]:
    text = ""
    async for delta in model.complete(prompt, GREEDY):
        text += delta.text
    return text, delta


def ask(model: GGUFModel, prompt: list[int]) -> tuple[str, int]:
    text, delta = asyncio.run(last(model, prompt))
    return text, delta.cached_tokens


def states(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.state"))


def test_a_restart_finds_what_was_evaluated_and_answers_the_same(path: Path, tmp_path: Path) -> None:
    plain = opened(path, None)
    first, longer = ask(plain, LONG), ask(plain, [*LONG, 9, 8, 7])
    plain.close()
    model = opened(path, tmp_path)
    assert ask(model, LONG) == first
    model.close()
    (state,) = states(tmp_path)
    assert (state.stat().st_mode & 0o777, state.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    model = opened(path, tmp_path)
    text, cached = ask(model, [*LONG, 9, 8, 7])
    model.close()
    assert text == longer[0]
    assert cached == len(LONG)
    (state,) = states(tmp_path)  # the longer one took its place


def test_a_history_is_saved_before_its_slot_gets_another_one(path: Path, tmp_path: Path) -> None:
    model = opened(path, tmp_path)
    other = [token + 1 for token in LONG]
    ask(model, LONG)
    ask(model, other)
    for _ in range(2):
        assert ask(model, LONG)[1] == len(LONG) - 1
        assert ask(model, other)[1] == len(other) - 1
    model.close()
    assert len(states(tmp_path)) == 2


def test_short_prompts_leave_no_files(path: Path, tmp_path: Path) -> None:
    model = opened(path, tmp_path)
    ask(model, LONG[:200])
    model.close()
    assert states(tmp_path) == []


def test_what_a_state_depends_on_names_its_folder(path: Path, tmp_path: Path) -> None:
    copy = shutil.copy(path, tmp_path / "copy.gguf")
    assert fingerprint([path], ["x"]) == fingerprint([Path(copy)], ["x"]) != fingerprint([path], ["y"])
    with (tmp_path / "copy.gguf").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\1\2\3\4")
    assert fingerprint([path], ["x"]) != fingerprint([tmp_path / "copy.gguf"], ["x"])
    for options in ({}, {"kv_cache_type": "q8_0"}):
        model = opened(path, tmp_path / "states", **options)
        assert ask(model, LONG)[1] == 0
        model.close()
    assert len({state.parent for state in states(tmp_path / "states")}) == 2


@pytest.mark.parametrize("damage", ["truncated", "foreign", "flipped", "gone", "record", "tokens"])
def test_a_damaged_state_is_ignored_and_removed(path: Path, tmp_path: Path, damage: str) -> None:
    model = opened(path, tmp_path)
    first = ask(model, LONG)
    model.close()
    (state,) = states(tmp_path)
    record = state.with_suffix(".json")
    content = bytearray(state.read_bytes())
    match damage:
        case "truncated":
            state.write_bytes(content[:-1000])
        case "foreign":
            state.write_bytes(struct.pack("<3I", 0x67677371, 4, 300) + os.urandom(len(content) - 12))
        case "flipped":
            content[len(content) // 2] ^= 1
            state.write_bytes(content)
        case "gone":
            state.unlink()
        case "record":
            record.write_text(record.read_text()[:-10])
        case "tokens":
            record.write_text(json.dumps({**json.loads(record.read_text()), "tokens": "all of them"}))
    model = opened(path, tmp_path)
    assert ask(model, LONG) == first
    model.close()
    model = opened(path, tmp_path)
    assert ask(model, LONG)[1] > 0  # the one that was saved in its place
    model.close()


def test_the_least_recently_used_states_go(path: Path, tmp_path: Path) -> None:
    model = opened(path, tmp_path, prompt_cache_disk=1)
    for shift in range(6):
        ask(model, [token + shift for token in LONG])
    model.close()
    sizes = [state.stat().st_size for state in states(tmp_path)]
    assert 0 < sum(sizes) <= 1 << 20
    assert len(list(tmp_path.glob("*/*"))) == 2 * len(sizes)


def test_what_a_crash_leaves_is_removed_in_time(path: Path, tmp_path: Path) -> None:
    folder = SavedStates(tmp_path, "key", 1 << 30).folder
    old, new = folder / "old.partial", folder / "new.partial"
    for file in (old, new):
        file.write_bytes(b"x")
    os.utime(old, (0, 0))
    SavedStates(tmp_path, "key", 1 << 30)
    assert [file.name for file in folder.iterdir()] == ["new.partial"]


_SAVES = """
import asyncio, resource, sys
from pathlib import Path
from tests.engines.test_saved_states import LONG, ask, opened
model = opened(Path(sys.argv[1]), Path(sys.argv[2]))
print(ask(model, LONG)[0], flush=True)
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
else:
    from ggserve.engines.llama_cpp import saved_states
    saved_states._sha256 = lambda path: print("saving", flush=True) or asyncio.run(asyncio.sleep(60))
model.close()
print("closed", flush=True)
"""


def test_a_full_disk_costs_the_saved_state_only(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _SAVES, str(path), str(tmp_path), "full"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "closed" in ended.stdout
    assert list(tmp_path.glob("*/*")) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000


def test_kill_9_during_a_save_loses_nothing_but_that_state(path: Path, tmp_path: Path) -> None:
    model = opened(path, tmp_path)
    kept = [token + 3 for token in LONG]
    ask(model, kept)
    model.close()
    command = [sys.executable, "-c", _SAVES, str(path), str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    while "saving" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE)
    assert len(list(tmp_path.glob("*/*.partial"))) == 1
    model = opened(path, tmp_path)
    assert ask(model, kept)[1] == len(kept) - 1
    assert ask(model, LONG)[1] == 0
    model.close()


def test_slots_are_saved_and_restored_by_name(path: Path, tmp_path: Path) -> None:
    model = opened(path, tmp_path, parallel=2)

    async def act(number: int, action: Any, name: str = "") -> dict[str, Any]:
        return await model.act_on_slot(number, action, name)

    async def main() -> None:
        text, _ = await last(model, LONG)
        used = next(slot.id for slot in model.engine._slots if slot.tokens)  # type: ignore[attr-defined]
        saved = await act(used, "save", "mine.bin")
        assert (saved["id_slot"], saved["filename"]) == (used, "mine.bin")
        assert saved["n_saved"] >= len(LONG)
        assert (await act(used, "erase"))["n_erased"] == saved["n_saved"]
        restored = await act(1 - used, "restore", "mine.bin")
        assert restored["n_restored"] == saved["n_saved"]
        again, delta = await last(model, LONG)
        assert (again, delta.cached_tokens) == (text, len(LONG) - 1)
        for bad in ("../x", "", "a/b", ".x", "absent", "x\0"):
            with pytest.raises(InvalidRequest):
                await act(0, "restore", bad)
        with pytest.raises(InvalidRequest):
            await act(2, "erase")

    asyncio.run(main())
    model.close()
