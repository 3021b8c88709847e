"""States of llama.cpp's slots on disk, so that a long history need not be evaluated again after a restart.

A state is two files in a private folder: llama.cpp's own, and a record of its tokens, its size and its SHA-256.
llama.cpp ends the process if a state is cut off or of another model, so it never reads one that does not match its
record. The folder belongs to one model, build and cache type: `fingerprint` names it. A record is written last and
removed first, both by rename, so that a crash leaves only whole states and unreferenced files.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import struct
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggserve.engines.llama_cpp.listener import Unanswered
from ggserve.engines.pool import common_prefix
from ggserve.errors import EngineError, InvalidRequest

log = logging.getLogger("ggserve.model")

LEAST = 256  # tokens that a state must save to be worth writing or reading
_NEARLY = 0.9  # fraction of a state's tokens: what follows may be an answer that the next prompt spells differently
_MAGIC = 0x67677371  # of llama.cpp's files of one sequence
_SAMPLES, _SAMPLE = 64, 1 << 16  # parts of a model file that identify it, and bytes of each
_STALE = 600.0  # seconds after which a file without a record counts as left by a crash
_CLIENT_NAME = re.compile(r"[\w-][\w.-]{0,99}", re.ASCII)

Post = Callable[[str, dict[str, Any]], Any]  # of a Transport


@dataclass(eq=False)
class State:
    """A complete state on disk."""

    path: Path
    tokens: NDArray[np.int32]
    size: int  # bytes
    digest: str  # SHA-256

    @property
    def record(self) -> Path:
        return self.path.with_suffix(".json")


class SavedStates:
    """The states of one model. All methods may be called from any thread that holds the slot in question."""

    def __init__(self, root: Path, key: str, limit: int) -> None:
        """Read the records in `root`/`key`. `limit`: bytes of all models' states. Raises EngineError."""
        self._root, self._limit = root, limit
        self.folder = root / key
        try:
            for folder in (root, self.folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                folder.chmod(0o700)
        except OSError as error:
            raise EngineError(f"PROMPT_CACHE_DIR={root}: cannot be used: {error.strerror or error}") from error
        self._states = {state.path.name: state for state in self._read()}

    def best(self, prompt: Sequence[int], held: int) -> State | None:
        """Return the state that saves the most of a prompt of which a slot holds `held` tokens; None if none is worth
        it."""
        tokens = np.asarray(prompt, np.int32)
        found, longest = None, held + LEAST - 1
        for state in list(self._states.values()):
            if (length := _common(state.tokens, tokens)) > longest:
                found, longest = state, length
        return found

    def knows(self, tokens: Sequence[int]) -> bool:
        """Return whether a state begins with these tokens."""
        wanted = np.asarray(tokens, np.int32)
        return any(_common(state.tokens, wanted) == len(wanted) for state in list(self._states.values()))

    def save(self, post: Post, slot: int, expected: Sequence[int], name: str | None = None) -> dict[str, Any] | None:
        """Save a slot that should hold the `expected` tokens, and maybe more; return None if that fails, which is
        logged. Blocks while the disk is written."""
        path = self.folder / f"{name or uuid.uuid4().hex}.state"
        partial = self.folder / f"{uuid.uuid4().hex}.partial"
        try:
            answer: dict[str, Any] = post(f"/slots/{slot}?action=save", {"filename": partial.name})
            tokens = tokens_in(partial)
            if common_prefix(tokens.tolist(), expected) + 1 < min(len(tokens), len(expected)) or not len(tokens):
                raise EngineError("the slot has changed")
            partial.chmod(0o600)
            state = State(path, tokens, partial.stat().st_size, _sha256(partial))
            self._drop_outdated(state)
            self._remove(path.name)
            os.replace(partial, path)
            _write(state.record, {"tokens": tokens.tolist(), "size": state.size, "sha256": state.digest})
        except (OSError, EngineError, ValueError) as error:
            log.warning("a prompt was not saved: %s", error)
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            return None
        finally:
            for other in self.folder.glob(f"{partial.name}.*"):  # some builds write further files, and need none
                other.unlink(missing_ok=True)
        self._states[path.name] = state
        log.info("saved %d tokens of a prompt, %.1f MB", len(tokens), state.size / 1e6)
        self._evict(keep=state)
        return answer

    def restore(self, post: Post, slot: int, state: State) -> dict[str, Any] | None:
        """Read a state into a slot; return None if that fails, which is logged. An unreadable state is removed."""
        try:
            if state.path.stat().st_size != state.size or _sha256(state.path) != state.digest:
                raise EngineError("the file is damaged")
            answer: dict[str, Any] = post(f"/slots/{slot}?action=restore", {"filename": state.path.name})
            os.utime(state.record)  # marks it as used
        except Unanswered as error:
            log.warning("a saved prompt was not read: %s", error)
            return None
        except (OSError, EngineError) as error:
            log.warning("a saved prompt was removed: %s", error)
            self._remove(state.path.name)
            return None
        return answer

    def named(self, name: str) -> State:
        """Return the state that a client has saved under a name. Raises InvalidRequest."""
        state = self._states.get(f"{self.client_name(name)}.state")
        if state is None:
            raise InvalidRequest(f"There is no saved state {name!r} of this model and build.", "filename")
        return state

    @staticmethod
    def client_name(name: str) -> str:
        """Return the stored name of a client's file. Raises InvalidRequest."""
        if not _CLIENT_NAME.fullmatch(name):
            raise InvalidRequest("filename: use up to 100 letters, digits, '.', '-' and '_'.", "filename")
        return f"client-{name}"

    def _read(self) -> Iterable[State]:
        for path in list(self.folder.iterdir()):
            with suppress(OSError):
                if path.suffix == ".json":
                    try:
                        record = json.loads(path.read_text())
                        tokens = np.asarray(record["tokens"], np.int32)
                        state = State(path.with_suffix(".state"), tokens, int(record["size"]), str(record["sha256"]))
                        whole = tokens.ndim == 1 and state.path.stat().st_size == state.size
                    except (OSError, ValueError, KeyError, TypeError, OverflowError):
                        whole = False
                    if whole:
                        yield state
                    else:
                        log.warning("a damaged saved prompt was removed: %s", path.name)
                        path.unlink(missing_ok=True)
                        path.with_suffix(".state").unlink(missing_ok=True)
                elif not path.with_suffix(".json").exists() and time.time() - path.stat().st_mtime > _STALE:
                    path.unlink()

    def _drop_outdated(self, state: State) -> None:
        """Remove states that the new one nearly contains, such as the earlier turns of its chat."""
        for name, old in list(self._states.items()):
            if _common(old.tokens, state.tokens) >= _NEARLY * len(old.tokens) and not name.startswith("client-"):
                self._remove(name)

    def _remove(self, name: str) -> None:
        state = self._states.pop(name, None)
        for path in (state.record, state.path) if state else ():
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _evict(self, keep: State) -> None:
        """Remove the least recently used states of all models beyond the limit."""
        records = []
        for record in self._root.glob("*/*.json"):
            with suppress(OSError):
                size = record.with_suffix(".state").stat().st_size
                records.append((record.stat().st_mtime, record, size))
        total = sum(size for *_, size in records)
        for _, record, size in sorted(records, key=lambda item: (item[1] == keep.record, item[0])):
            if total <= self._limit:
                return
            for path in (record, record.with_suffix(".state")):
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            self._states.pop(record.with_suffix(".state").name, None)
            total -= size

    def has_room(self, nbytes: int) -> bool:
        """Return whether the disk and the limit have room for a state of this size."""
        return nbytes <= min(self._limit, shutil.disk_usage(self.folder).free)


def fingerprint(paths: Sequence[Path], facts: Sequence[object]) -> str:
    """Return a name for everything that a state depends on: model files and adapters by their content, and further
    facts."""
    digest = hashlib.sha256(repr(facts).encode())
    for path in paths:
        size = path.stat().st_size
        digest.update(b"%d" % size)
        with path.open("rb") as file:
            for number in range(_SAMPLES):
                file.seek(max(0, size - _SAMPLE) * number // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:32]


def _common(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    length = min(len(one), len(other))
    differ = np.nonzero(one[:length] != other[:length])[0]
    return int(differ[0]) if len(differ) else length


def tokens_in(path: Path) -> NDArray[np.int32]:
    """Return the tokens in a file that llama.cpp has just written. Raises EngineError."""
    with path.open("rb") as file:
        magic, _, count = struct.unpack("<3I", file.read(12))
        if magic != _MAGIC or count * 4 > path.stat().st_size:
            raise EngineError("llama.cpp writes saved states in an unknown format")
        tokens = np.frombuffer(file.read(4 * count), np.int32)
    if count > 3 and tokens[0] == -1:  # the server's own header: a version, and the number of tokens that follow
        tokens = tokens[3 : 3 + int(tokens[2])]
    return tokens.copy()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, record: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(record, file)
    os.replace(partial, path)
