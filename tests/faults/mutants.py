"""Damaged model files: `python -m tests.faults.mutants --count 10000`. Each is checked as at a start; those that pass
are loaded and asked once, in a process of their own with a time limit. Prints what became of them, and which killed.

A mutant is known by its seed and number, and is made again by `--first NUMBER --count 1 --keep FILE`.
"""

import argparse
import asyncio
import os
import random
import resource
import select
import signal
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from gguf import GGMLQuantizationType

from ggserve.engines.choice import EngineWishes, choose_engine
from ggserve.errors import EngineError, ModelFileError, TemplateError
from ggserve.generation import SamplingParams
from ggserve.model.gguf_model import GGUFModel
from ggserve.modelfile.file import read_model_file
from ggserve.modelfile.legacy.ggml import GGMLFile, read_ggml
from tests.answers import answer
from tests.conftest import FAMILY_FILES
from tests.engines.load_changed_models import spec_of
from tests.engines.tiny_models import ARCHITECTURES, write_tiny_model
from tests.modelfile.mutations import NUMBERS, bases, mutant

EngineChoice = Literal["auto", "ctransformers", "llama.cpp"]
Maker = Callable[[random.Random], bytes]

ENGINES: tuple[EngineChoice, ...] = ("auto", "llama.cpp")
REFUSED, ERROR, TRACEBACK = 10, 11, 12  # exit codes of a child
HEADER = 44  # bytes of a legacy file in which its numbers are
NOT_A_NUMBER = (b"\xff\xff\xff\xff", b"\x00\x7e\x00\x7e", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f")


@dataclass
class Outcome:
    """The results of the mutants."""

    counts: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)  # a line for each that ended by a signal, a hang or a traceback
    seconds: float = 0.0

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()))
        return "\n".join([f"{sum(self.counts.values())} files in {self.seconds:.0f} s: {counts}", *self.bad])


def makers(folder: Path) -> list[tuple[str, str | None, Maker]]:
    """Name, legacy family, and what makes mutants, of each kind of file."""
    found: list[tuple[str, str | None, Maker]] = []
    for index, spec in enumerate(bases()):
        found.append((f"old GGUF {index}", None, partial(_gguf, spec)))
    names = (*ARCHITECTURES, "reranker")
    found += [(name, None, partial(_gguf, spec_of(write_tiny_model(folder, name)))) for name in names]
    quantized = write_tiny_model(folder, "llama", GGMLQuantizationType.Q4_0)
    found.append(("llama Q4_0", None, partial(_gguf, spec_of(quantized))))
    for path in sorted(FAMILY_FILES.glob("*.bin")):
        if "f32" not in path.name:
            family = path.name.split(".")[0]
            found.append((path.name, family, partial(_legacy, path.read_bytes(), read_ggml(path, family))))
    return found


def _gguf(spec: object, chance: random.Random) -> bytes:
    content = mutant(spec, chance)  # type: ignore[arg-type]
    how = chance.random()
    if how < 0.1:
        return _spoiled(content, len(content) // 2, len(content), chance)
    return content[: chance.randrange(len(content))] if how < 0.15 else content


def _legacy(raw: bytes, file: GGMLFile, chance: random.Random) -> bytes:
    """Change one to three numbers of the header, the vocabulary or a tensor's entry; or weights, or the length."""
    first = min(tensor.offset for tensor in file.tensors.values())
    how = chance.random()
    if how < 0.08:
        return raw[: chance.randrange(len(raw))]
    if how < 0.2:
        return _spoiled(raw, first, len(raw), chance)
    content = bytearray(raw)
    for _ in range(chance.choice([1, 1, 2, 3])):
        where = chance.random()
        if where < 0.4:
            at = 4 * chance.randrange(HEADER // 4)
        elif where < 0.8:
            name, tensor = chance.choice(list(file.tensors.items()))
            entry = raw.rfind(name.encode(), 0, tensor.offset)
            at = entry - 4 * chance.randrange(1, 4 + len(tensor.shape)) if chance.random() < 0.9 else entry
        else:
            at = chance.randrange(HEADER, first)
        if chance.random() < 0.75:
            content[at : at + 4] = struct.pack("<I", chance.choice(NUMBERS))
        else:
            content[at] ^= 1 << chance.randrange(8)
    return bytes(content)


def _spoiled(raw: bytes, first: int, end: int, chance: random.Random) -> bytes:
    """Set weights to values that are not numbers, or very large."""
    content = bytearray(raw)
    for _ in range(chance.choice([1, 4, 100])):
        at = chance.randrange(first, end - 4) & ~3
        content[at : at + 4] = chance.choice(NOT_A_NUMBER)
    return bytes(content)


def run(first: int, count: int, *, seed: int, limit: float, seconds: float, keep: Path | None = None) -> Outcome:
    """Try mutants until all are done or the time is up; `limit` is a child's."""
    outcome, started = Outcome(), time.monotonic()
    with TemporaryDirectory(prefix="mutants-") as folder:
        kinds = makers(Path(folder))
        for number in range(first, first + count):
            if time.monotonic() - started > seconds:
                break
            name, family, make = kinds[number % len(kinds)]
            engine = ENGINES[number // len(kinds) % len(ENGINES)]
            path = Path(folder, "mutant")
            path.write_bytes(make(random.Random(f"{seed} {number}")))
            if keep:
                keep.write_bytes(path.read_bytes())
            what, detail = _try(path, family, engine, limit)
            outcome.counts[what] += 1
            if what in ("hung", "died by a signal", "traceback"):
                outcome.bad.append(f"{number} ({name}, ENGINE={engine}): {what}: {detail}")
                print(outcome.bad[-1], file=sys.stderr, flush=True)
    outcome.seconds = time.monotonic() - started
    return outcome


def _try(path: Path, family: str | None, engine: EngineChoice, limit: float) -> tuple[str, str]:
    try:
        choose_engine(read_model_file(path, family), EngineWishes(engine=engine))
    except ModelFileError:
        return "refused by the check", ""
    except Exception:
        return "traceback", traceback.format_exc()
    output = path.with_name("output")
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _child(path, family, engine, output)
    done = os.pidfd_open(child)
    hung = not select.select([done], [], [], limit)[0]
    os.close(done)
    if hung:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    said = output.read_bytes().decode("utf-8", "replace").strip() if output.exists() else ""
    if hung:
        return "hung", said[-300:]
    if os.WIFSIGNALED(status):
        return "died by a signal", f"{signal.Signals(os.WTERMSIG(status)).name}: {said[-300:]}"
    code = os.WEXITSTATUS(status)
    return {
        0: ("answered", ""),
        REFUSED: ("refused by the load", ""),
        ERROR: ("answered with an error", ""),
        TRACEBACK: ("traceback", said[-2000:]),
    }.get(code, ("traceback", f"exit {code}: {said[-300:]}"))


def _child(path: Path, family: str | None, engine: EngineChoice, output: Path) -> None:
    """Load and ask; end the process."""
    written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(written, 1)
    os.dup2(written, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    code = 0
    try:
        cache = path.with_name("cache")
        model = GGUFModel(path, model_type=family, engine=engine, cache_dir=cache, threads=1, parallel=1)
        try:
            code = _ask(model)
        finally:
            model.close()
    except (ModelFileError, EngineError, TemplateError):
        code = REFUSED
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        code = TRACEBACK
    os._exit(code)


def _ask(model: GGUFModel) -> int:
    try:
        if "generation" in model.features:
            answer(model.complete("a", SamplingParams(max_tokens=3, seed=1)))
            answer(model.chat([{"role": "user", "content": "a b"}], SamplingParams(max_tokens=2, temperature=0)))
        elif "rerank" in model.features:
            asyncio.run(model.rerank("a", ["b", "a b"]))
        else:
            asyncio.run(model.embed(["a b"]))
    except (EngineError, TemplateError):
        return ERROR
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--limit", type=float, default=30, help="seconds that a process gets")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for all together")
    parser.add_argument("--keep", type=Path, help="where the last one is written")
    options = parser.parse_args()
    outcome = run(
        options.first,
        options.count,
        seed=options.seed,
        limit=options.limit,
        seconds=options.seconds,
        keep=options.keep,
    )
    print(outcome)
    return 1 if outcome.bad else 0


if __name__ == "__main__":
    sys.exit(main())
