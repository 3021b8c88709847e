"""Log-probabilities of given tokens in llama.cpp, whose core reports only the tokens that it chooses.

So each token is made the only choice, in a separate request over the cached prefix. The reported probability is the
model's, before any bias. This costs about as much as generating the tokens.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from ggserve.engines.llama_cpp.token_reports import beside, likeliest_of, probabilities
from ggserve.engines.llama_cpp.transport import Chunk, Transport
from ggserve.engines.logprobs import PromptScores
from ggserve.errors import EngineError, GenerationError
from ggserve.generation import ScoredToken

_FORCED = 1000.0  # added to a logit: no other is chosen
_BESIDE = 100.0  # added to two logits: no third matters, and float32 keeps their difference to 1e-5
_ANY = -1  # slot: the one that llama.cpp chooses
LIKELIEST = 1000  # tokens reported in each place: this many cost no measurable time
ONE_LETTER = 'root ::= "a"'  # a grammar whose only answer is a token that is text
_LEADS = (20.0, 60.0)  # how much more the first of the two gets, so that it is the one that is chosen


class NativeScorer:
    """Scores tokens in a loaded server core. From any thread, but one request per slot at a time."""

    def __init__(
        self,
        transport: Transport,
        spelling: Callable[[int], bytes],
        tokenize: Callable[[str], list[int]],
        native_prompt: Callable[[Sequence[int]], Any],  # converts a prompt to llama.cpp's form
    ) -> None:
        self._transport = transport
        self._native_prompt = native_prompt
        self._spelling = lru_cache(maxsize=256)(spelling)
        self._tokenize = tokenize
        self._prompts = PromptScores()

    def token(self, entry: dict[str, Any], top: int) -> ScoredToken:
        """Return a token from llama.cpp's chunk, with the `top` most likely tokens in its place."""
        raw = bytes(entry["bytes"])
        others = tuple(self.token(other, 0) for other in likeliest_of(entry)[:top])
        logprob = math.log(max(entry["prob"], 1e-300)) if "prob" in entry else entry.get("logprob")
        return ScoredToken(entry["id"], raw or self._spelling(entry["id"]), logprob, others, control=not raw)

    def prompt(
        self, prompt: Sequence[int], top: int, slot: int, cancelled: Callable[[], bool]
    ) -> tuple[ScoredToken, ...]:
        """Return the scores of a prompt's tokens, evaluated in a slot; none when cancelled. Raises EngineError."""
        scores = self._prompts.known(prompt, top)
        if not scores:
            raw = self._piece(prompt[0], slot)
            scores = [ScoredToken(prompt[0], raw or self._spelling(prompt[0]), None, control=not raw)]
        for position in range(len(scores), len(prompt)):
            if cancelled():
                return ()
            scores.append(self.score(prompt[:position], prompt[position], top, slot))
        self._prompts.keep(scores, top)
        return tuple(scores)

    def score(self, prefix: Sequence[int], token: int, top: int, slot: int = _ANY) -> ScoredToken:
        """A token after a prefix, evaluated in a slot. Raises EngineError."""
        if not self._transport.abilities.logprobs_before_bias:
            return self._unbiased(prefix, token, top, slot)
        if entry := self._forced(prefix, token, top, slot):
            return self.token(entry, top)
        # llama.cpp does not report a token that ends within a character: it is scored next to one that does not.
        other = self._whole_token
        beside = self._forced(prefix, other, top, slot)
        assert beside is not None
        return self._compared(prefix, token, beside, self.token(beside, top).top, slot)

    def _unbiased(self, prefix: Sequence[int], token: int, top: int, slot: int) -> ScoredToken:
        """Score a token without forcing it, because this would change what is reported."""
        fields = {"samplers": ["top_k"], "top_k": 1, "n_probs": max(top, LIKELIEST)}
        entry = self._told(prefix, fields, slot) or self._told(prefix, {**fields, "grammar": ONE_LETTER}, slot)
        if entry is None:
            raise GenerationError("llama.cpp did not return the probabilities in a place.")
        told, likeliest = (entry, *entry["top_logprobs"]), self.token(entry, top).top
        if found := next((one for one in told if one["id"] == token), None):
            return replace(self.token(found, 0), top=likeliest)
        other = next(one for one in told if _is_text(bytes(one["bytes"])))
        return self._compared(prefix, token, other, likeliest, slot)

    def _compared(
        self, prefix: Sequence[int], token: int, other: dict[str, Any], likeliest: tuple[ScoredToken, ...], slot: int
    ) -> ScoredToken:
        """Score a token by its probability beside another one, given llama.cpp's report on that one."""
        for lead in _LEADS:
            if found := self._beside(prefix, token, other["id"], lead, slot):
                logprob = other["logprob"] + math.log(found["prob"] / found["beside"]) + lead
                return replace(self.token({**found, "id": token, "prob": math.exp(logprob)}, 0), top=likeliest)
        raise GenerationError("llama.cpp did not return a token's probability.")

    def split(self, prefix: Sequence[int], text: str, count: int, last: ScoredToken, top: int) -> list[ScoredToken]:
        """Return the `count` tokens of a text whose characters are split over several, given the `last` one that
        llama.cpp reported.

        If the model did not use its tokenizer's spelling, or the bytes are not valid characters, return only that token
        with the whole text.
        """
        ids = self._tokenize(text)[-count:]
        if "\ufffd" in text or len(ids) != count or ids[-1] != last.id:
            return [last]
        scores = [self.score([*prefix, *ids[:index]], token, top) for index, token in enumerate(ids[:-1])]
        rest = text.encode()[sum(len(score.bytes) for score in scores) :]
        return [*scores, ScoredToken(last.id, rest, last.logprob, last.top)]

    @property
    def _whole_token(self) -> int:
        return self._tokenize("a")[-1]

    def _piece(self, token: int, slot: int) -> bytes:
        """The bytes of a token, b"" of a control token; wherever it stands they are the same."""
        entry = self._forced([token], token, 0, slot)
        return bytes(entry["bytes"]) if entry else self.score([token], token, 0, slot).bytes

    def _forced(self, prefix: Sequence[int], token: int, top: int, slot: int) -> dict[str, Any] | None:
        fields = {"samplers": ["top_k"], "top_k": 1, "logit_bias": [[token, _FORCED]], "n_probs": max(top, 1)}
        return self._told(prefix, fields, slot)

    def _beside(self, prefix: Sequence[int], token: int, other: int, lead: float, slot: int) -> dict[str, Any] | None:
        fields = beside({other: _BESIDE + lead, token: _BESIDE}, self._transport.abilities)
        entry = self._told(prefix, fields, slot)
        if entry is None or entry["id"] != other:
            return None
        told = probabilities(entry)
        found = next((one for one in likeliest_of(entry) if one["id"] == token), None)
        if found is None or not told.get(token):
            return None
        return {"bytes": found["bytes"], "prob": told[token], "beside": told[other]}

    def _told(self, prefix: Sequence[int], fields: dict[str, Any], slot: int) -> dict[str, Any] | None:
        """Return llama.cpp's report on the only requested token."""
        chunks: list[Chunk] = []

        def receive(chunk: Chunk) -> bool:
            chunks.append(chunk)
            return False

        # Streamed, because some builds fail to report tokens that are not UTF-8 otherwise.
        body = {"prompt": self._native_prompt(prefix), "n_predict": 1, "stream": True, "id_slot": slot, **fields}
        self._transport.complete(body, receive)
        for chunk in chunks:
            if error := chunk.get("error"):
                raise EngineError(f"llama.cpp: {error['message']}")
            for choice in chunk.get("choices") or ():
                for entry in (choice.get("logprobs") or {}).get("content") or ():
                    told: dict[str, Any] = entry
                    return told
        return None


def _is_text(spelling: bytes) -> bool:
    """Return whether a token has text that does not end within a character."""
    return bool(spelling) and "\ufffd" not in spelling.decode("utf-8", "replace")
