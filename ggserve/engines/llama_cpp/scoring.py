"""How likely llama.cpp's models take given tokens to be: its core tells it of the tokens that it chooses only.

So each token is made the only choice, in a request of its own over the prefix that the cache holds: what is told is the
model's distribution, before any bias. That costs about what generating as many tokens does.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from ggserve.engines.llama_cpp.transport import Chunk, Transport
from ggserve.engines.logprobs import PromptScores
from ggserve.errors import EngineError, GenerationError
from ggserve.generation import ScoredToken

_FORCED = 1000.0  # added to a logit: no other is chosen
_BESIDE = 100.0  # added to two logits: no third matters, and float32 keeps their difference to 1e-5
_LEADS = (20.0, 60.0)  # how much more the first of the two gets, so that it is the one that is chosen


class NativeScorer:
    """Scores tokens in a loaded server core; from any thread, one request of a slot at a time."""

    def __init__(
        self,
        transport: Transport,
        spelling: Callable[[int], bytes],
        tokenize: Callable[[str], list[int]],
        native_prompt: Callable[[Sequence[int]], Any],  # a prompt as llama.cpp takes it
    ) -> None:
        self._transport = transport
        self._native_prompt = native_prompt
        self._spelling = lru_cache(maxsize=256)(spelling)
        self._tokenize = tokenize
        self._prompts = PromptScores()

    def token(self, entry: dict[str, Any], top: int) -> ScoredToken:
        """A token as llama.cpp's chunks tell of it, with `top` of the likeliest in its place."""
        raw = bytes(entry["bytes"])
        others = tuple(self.token(other, 0) for other in entry.get("top_logprobs", entry.get("top_probs", ()))[:top])
        logprob = math.log(max(entry["prob"], 1e-300)) if "prob" in entry else entry.get("logprob")
        return ScoredToken(entry["id"], raw or self._spelling(entry["id"]), logprob, others, control=not raw)

    def prompt(self, prompt: Sequence[int], top: int, cancelled: Callable[[], bool]) -> tuple[ScoredToken, ...]:
        """The scores of a prompt's tokens; none when cancelled. Raises EngineError."""
        scores = self._prompts.known(prompt, top)
        if not scores:
            raw = self._piece(prompt[0])
            scores = [ScoredToken(prompt[0], raw or self._spelling(prompt[0]), None, control=not raw)]
        for position in range(len(scores), len(prompt)):
            if cancelled():
                return ()
            scores.append(self.score(prompt[:position], prompt[position], top))
        self._prompts.keep(scores, top)
        return tuple(scores)

    def score(self, prefix: Sequence[int], token: int, top: int) -> ScoredToken:
        """A token after a prefix. Raises EngineError."""
        if entry := self._forced(prefix, token, top):
            return self.token(entry, top)
        # Of a token that ends within a character nothing is told: it is found beside one that does not.
        other = self._whole_token
        beside = self._forced(prefix, other, top)
        assert beside is not None
        place = self.token(beside, top)
        for lead in _LEADS:
            if found := self._beside(prefix, token, other, lead):
                logprob = beside["logprob"] + math.log(found["prob"] / found["beside"]) + lead
                return ScoredToken(token, bytes(found["bytes"]), logprob, place.top)
        raise GenerationError("llama.cpp did not return a token's probability.")

    def split(self, prefix: Sequence[int], text: str, count: int, last: ScoredToken, top: int) -> list[ScoredToken]:
        """The `count` tokens of a text whose characters are split over several, of which llama.cpp told the `last`.

        Where the model did not spell it as its tokenizer does, or in bytes that are no characters, only that one, as
        the whole text.
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

    def _piece(self, token: int) -> bytes:
        """The bytes of a token, b"" of a control token; wherever it stands they are the same."""
        entry = self._forced([token], token, 0)
        return bytes(entry["bytes"]) if entry else self.score([token], token, 0).bytes

    def _forced(self, prefix: Sequence[int], token: int, top: int) -> dict[str, Any] | None:
        fields = {"samplers": ["top_k"], "top_k": 1, "logit_bias": [[token, _FORCED]], "n_probs": max(top, 1)}
        return self._told(prefix, fields)

    def _beside(self, prefix: Sequence[int], token: int, other: int, lead: float) -> dict[str, Any] | None:
        fields = {
            "samplers": ["temperature"],
            "temperature": 1.0,
            "logit_bias": [[other, _BESIDE + lead], [token, _BESIDE]],
            "n_probs": 2,
            "post_sampling_probs": True,
        }
        entry = self._told(prefix, fields)
        if entry is None or entry["id"] != other:
            return None
        found = [one for one in entry["top_probs"] if one["id"] == token and one["prob"] > 0]
        return {**found[0], "beside": entry["prob"]} if found else None

    def _told(self, prefix: Sequence[int], fields: dict[str, Any]) -> dict[str, Any] | None:
        """What llama.cpp tells of the one token that it is asked for."""
        chunks: list[Chunk] = []

        def receive(chunk: Chunk) -> bool:
            chunks.append(chunk)
            return False

        body = {"prompt": self._native_prompt(prefix), "n_predict": 1, "stream": False, **fields}
        self._transport.complete(body, receive)
        answer = chunks[-1]
        if error := answer.get("error"):
            raise EngineError(f"llama.cpp: {error['message']}")
        logprobs = answer["choices"][0].get("logprobs")
        return logprobs["content"][0] if logprobs and logprobs["content"] else None
