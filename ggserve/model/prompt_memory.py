"""The last prompts of a model, which explain why tokens of a new prompt are evaluated again."""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from numpy.typing import NDArray

from ggserve.chat.rendering import Chat
from ggserve.generation import SamplingParams
from ggserve.prompt_progress import CacheMiss, MissReason, PromptProgress

LEAST = 64  # tokens; fewer evaluated again are not reported
_PROMPTS = 8
_RUN = 16  # consecutive tokens that identify the same text in two prompts
_FACTORS = np.random.default_rng(0).integers(1, 1 << 62, _RUN, np.uint64) | np.uint64(1)  # factors of the hash of a run

Tokens = NDArray[np.int64]


def lora_of(params: SamplingParams) -> object:
    """Return the LoRA adapters of a request, for comparison with other requests."""
    return None if params.lora is None else tuple(sorted(params.lora.items()))


@dataclass(frozen=True)
class Parts:
    """The parts of a prompt, as hashes. A text without a chat has no parts."""

    lora: int
    template: int = 0
    tools: int = 0
    messages: tuple[int, ...] = ()
    roles: tuple[str, ...] = ()

    @classmethod
    def of(cls, chat: Chat, template: str, lora: object) -> "Parts":
        """Return the parts of a chat that `template` renders."""
        return cls(
            hash(lora),
            hash((template, _hash(chat.template_arguments))),
            _hash(chat.tools.functions if chat.tools else None),
            tuple(map(_hash, chat.messages)),
            tuple(str(message.get("role")) for message in chat.messages),
        )

    def difference(self, earlier: "Parts") -> tuple[MissReason, int | None]:
        """Return why a prompt differs from an earlier one, and the index of the first message that differs, if one
        does."""
        if self.lora != earlier.lora:
            return "lora", None
        if not self.messages or not earlier.messages:
            return "text", None
        if self.tools != earlier.tools:
            return "tools", None
        pairs = zip(self.messages, earlier.messages, strict=False)
        first = next((index for index, (own, other) in enumerate(pairs) if own != other), None)
        if first is None or self.template != earlier.template:
            return "template", None
        return ("system" if self.roles[first] in ("system", "developer") else "message"), first


@dataclass(frozen=True)
class _Prompt:
    tokens: Tokens
    parts: Parts
    progress: PromptProgress

    @property
    def known(self) -> Tokens:
        """The tokens that reached the cache."""
        return self.tokens[: self.progress.processed]


class PromptMemory:
    """The prompts of one model. Can be used from any thread."""

    def __init__(self, *, rewinds: bool) -> None:
        """Create the memory. `rewinds`: the KV cache can go back to any token."""
        self._rewinds = rewinds
        self._prompts: deque[_Prompt] = deque(maxlen=_PROMPTS)
        self._lock = threading.Lock()

    def explaining(self, progress: PromptProgress, tokens: Sequence[int], parts: Callable[[], Parts]) -> PromptProgress:
        """Return the progress of a prompt, which will explain cache misses once its evaluation begins."""
        progress.explain = lambda slot, cached: self._explain(slot, cached, _Prompt(_array(tokens), parts(), progress))
        return progress

    def _explain(self, slot: int, cached: int, prompt: _Prompt) -> CacheMiss | None:
        with self._lock:
            earlier = list(self._prompts)
            self._prompts.append(prompt)
        if len(prompt.tokens) - cached < LEAST:
            return None
        common = [_common(prompt.tokens, each.known) for each in earlier]
        longest = max(common, default=0)
        if longest - cached >= LEAST:
            nearest = earlier[len(common) - 1 - common[::-1].index(longest)]
            return self._lost(nearest, prompt, longest, cached, earlier)
        again = [_repeated(prompt.tokens[at:], each.known[at:]) for at, each in zip(common, earlier, strict=True)]
        index = max(range(len(earlier)), key=lambda each: (common[each] + again[each], common[each]), default=0)
        if not earlier or again[index] < LEAST:
            return None
        reason, message = prompt.parts.difference(earlier[index].parts)
        return CacheMiss(reason, again[index], earlier[index].progress.slot or 0, common[index], message)

    def _lost(
        self, nearest: _Prompt, prompt: _Prompt, common: int, cached: int, earlier: Sequence[_Prompt]
    ) -> CacheMiss:
        """Return the reason why known tokens are gone although the prompts have them in common."""
        slot = nearest.progress.slot or 0
        last = next(each for each in reversed(earlier) if each.progress.slot == nearest.progress.slot)
        reason: MissReason = "eviction"
        if prompt.parts.lora != nearest.parts.lora:
            reason = "lora"
        elif last is nearest and not self._rewinds:
            reason = "model"
        return CacheMiss(reason, common - cached, slot, cached if reason != "model" else common)


def _array(tokens: Sequence[int]) -> Tokens:
    return np.asarray(tokens, np.int64)


def _hash(value: object) -> int:
    if isinstance(value, Mapping):
        value = dict(value)
    return hash(orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS))


def _common(a: Tokens, b: Tokens) -> int:
    length = min(len(a), len(b))
    differ = a[:length] != b[:length]
    return int(differ.argmax()) if differ.any() else length


def _repeated(later: Tokens, earlier: Tokens) -> int:
    """Return the number of tokens of `later` in runs that `earlier` also contains."""
    if min(len(later), len(earlier)) < _RUN:
        return 0
    same = np.isin(_runs(later), _runs(earlier))
    edges = np.zeros(len(later) + 1, np.int64)
    edges[: len(same)] += same
    edges[_RUN : _RUN + len(same)] -= same
    return int((edges.cumsum() > 0).sum())


def _runs(tokens: Tokens) -> NDArray[np.uint64]:
    windows = np.lib.stride_tricks.sliding_window_view(tokens.astype(np.uint64), _RUN)
    hashes: NDArray[np.uint64] = (windows * _FACTORS).sum(axis=1, dtype=np.uint64)
    return hashes
