"""Chooses the replica of a request: the one that holds the beginning of its prompt, unless it is clearly busier.

Knows prompts only as hashes, and replicas only as names with loads. The router calls it.
"""

import hashlib
import random
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import orjson

_BLOCK = 256  # characters of a bare prompt that are hashed together
_TURNS = 4  # remembered prompts per chat, because one may be edited and sent again
NEWS_SECONDS = 2.0  # age of a replica's news

Name = TypeVar("Name", bound=Hashable)


def prompt_marks(body: bytes) -> list[int]:
    """Return hashes of the prefixes of a prompt at which another request's prompt could end: after each message, or
    after each block of text. Empty if the JSON `body` has no prompt or is not JSON."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError:
        return []
    if not isinstance(request, dict):
        return []
    chain = hashlib.blake2b(_json([request.get(field) for field in ("tools", "system", "instructions")]), digest_size=8)
    marks = []
    for part in _parts(request.get("messages") or request.get("input") or request.get("prompt")):
        chain.update(part)
        marks.append(int.from_bytes(chain.digest(), "big"))
    return marks


def _parts(prompt: Any) -> list[bytes]:
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], dict):
        return [_json(message) for message in prompt]
    text = prompt.encode() if isinstance(prompt, str) else _json(prompt)
    return [text[start : start + _BLOCK] for start in range(0, len(text) - _BLOCK + 1, _BLOCK)]


def _json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


@dataclass(eq=False)
class _Chat(Generic[Name]):
    """A prompt and its longer versions, in a slot of a replica."""

    replica: Name
    used: float  # time.monotonic()
    marks: list[int] = field(default_factory=list)


class Affinity(Generic[Name]):
    """Remembers the chats in the slots of the replicas: as many per replica as it has slots, the most recent ones."""

    def __init__(self, slots: int, slack: int | None = None) -> None:
        """`slots`: answers that a replica generates at the same time. `slack`: a replica counts as busy if it has more
        than this many running answers above the least busy one (default: half its slots)."""
        self._slots = slots
        self._slack = max(1, slots // 2) if slack is None else slack
        self._by_mark: dict[int, _Chat[Name]] = {}
        self._held: dict[Name, list[_Chat[Name]]] = {}
        self._told: dict[Name, list[int]] = {}

    def choose(self, loads: Mapping[Name, int], marks: Sequence[int]) -> Name | None:
        """Return the replica for a prompt, given the number of running answers on each; None if none has a free slot.

        A new chat goes to a replica with an empty slot, then to the least busy replica, then to the one where the chat
        that it displaces is the oldest. So all slots together forget in the order in which those of one server would.
        """
        bound = min(self._slots - 1, min(loads.values(), default=self._slots) + self._slack)
        near = {name: load for name, load in loads.items() if load <= bound}
        if not near:
            return None
        for mark in reversed(marks):
            chat = self._by_mark.get(mark)
            if chat and chat.replica in near:
                self._hold(chat, marks[-1], time.monotonic())
                return chat.replica
        name = min(near, key=lambda name: self._cost(name, near[name]))
        if marks:
            self._hold(_Chat(name, 0), marks[-1], time.monotonic())
        return name

    def update(self, told: Mapping[Name, list[int]]) -> None:
        """Update the set of replicas and the last marks of prompts that each reports, because other gateways send
        prompts too."""
        for name in self._held.keys() - told.keys():
            for chat in self._held.pop(name):
                self._forget(chat)
        for name, marks in told.items():
            if marks != self._told.get(name):  # the same news twice would look newer than they are
                for mark in marks:
                    if mark not in self._by_mark:
                        self._hold(_Chat(name, 0), mark, time.monotonic() - NEWS_SECONDS)
        self._told = dict(told)

    def _cost(self, name: Name, load: int) -> tuple[bool, int, float, float]:
        chats = self._held.get(name, [])
        full = len(chats) >= self._slots
        return full, load, min(chat.used for chat in chats) if full else len(chats), random.random()

    def _hold(self, chat: _Chat[Name], mark: int, now: float) -> None:
        """Add a prompt to a chat; forget the chats that the replica has no slot for, and the chat's oldest prompts."""
        chats = self._held.setdefault(chat.replica, [])
        if chat not in chats:
            if len(chats) >= self._slots:
                oldest = min(chats, key=lambda other: other.used)
                chats.remove(oldest)
                self._forget(oldest)
            chats.append(chat)
        if (other := self._by_mark.get(mark)) is not None:
            other.marks.remove(mark)
        chat.used = now
        chat.marks.append(mark)
        self._by_mark[mark] = chat
        if len(chat.marks) > _TURNS:
            del self._by_mark[chat.marks.pop(0)]

    def _forget(self, chat: _Chat[Name]) -> None:
        for mark in chat.marks:
            del self._by_mark[mark]
        chat.marks.clear()
