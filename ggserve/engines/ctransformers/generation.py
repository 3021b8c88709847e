"""A running request of this engine: its prompt, its sampler, its text so far."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ggserve.engines.logprobs import Scorer, ShownTokens
from ggserve.engines.request import RunningRequest
from ggserve.engines.sampling import Sampler
from ggserve.engines.stop_strings import TextStream
from ggserve.errors import GenerationError
from ggserve.generation import Delta, FinishReason, SamplingParams, ScoredToken
from ggserve.grammar.matcher import Matcher


class Generation(RunningRequest):
    """The answers of one request in the making, one after the other, token by token."""

    def __init__(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        pieces: Sequence[bytes],
        end_ids: frozenset[int],
        scorer: Scorer,
        context_length: int,
        matcher: Matcher | None = None,  # holds an answer to a grammar
    ) -> None:
        super().__init__(params.n)
        self.prompt = list(prompt)
        self.params = params
        self.cached_tokens = 0
        self.prompt_scores: tuple[ScoredToken, ...] = ()  # sent with the first delta
        self._pieces = pieces
        self._all_end_ids = end_ids
        self._end_ids = frozenset() if params.ignore_eos else end_ids
        self._scorer = scorer
        self._grammar = matcher
        room = context_length - len(self.prompt)
        self._max_tokens = room if params.max_tokens is None else min(params.max_tokens, room)
        self._begin(0)

    def _begin(self, index: int) -> None:
        """Starts the answer of that number."""
        params = self.params
        seed = None if params.seed is None else params.seed + index
        self._index = index
        self._sampler = Sampler(replace(params, seed=seed), self.prompt, self._all_end_ids)
        self._text = TextStream(self._pieces, params.stop)
        self._matcher = self._grammar and self._grammar.copy()
        self._scores = None if params.logprobs is None else ShownTokens()
        self._completion_tokens = 0

    @property
    def wants_tokens(self) -> bool:
        return self._max_tokens > 0

    def step(self, logits: NDArray[np.float32]) -> list[int]:
        """Chooses the next token and all that must follow it, sends what they show, and returns them; none when the
        answer is complete."""
        tokens = self._choose(logits)
        shown = ""
        for token in tokens:
            self._completion_tokens += 1
            if token in self._end_ids:
                self._score(logits, token, 0)
                self.finish("stop", shown)
                return []
            before = self._text.characters
            text, stopped = self._text.push(token)
            self._score(logits, token, self._text.characters - before)
            shown += text
            if stopped:
                self._complete(self._delta(shown, "stop"))
                return []
        if self._matcher is not None and self._matcher.ended:
            self.finish("stop", shown)
            return []
        if self._completion_tokens >= self._max_tokens:
            self.finish("length", shown)
            return []
        if shown:
            self.put(self._delta(shown))
        return tokens

    def _choose(self, logits: NDArray[np.float32]) -> list[int]:
        """The next token, and all that must follow it in the grammar; none where nothing can come."""
        if self._matcher is None:
            return [self._sampler.sample(logits)]
        # A token's likelihood is known from the logits before it alone: then they come one by one.
        room = self._max_tokens - self._completion_tokens if self._scores is None else 1
        if tokens := self._forced(room):
            return tokens
        allowed = self._matcher.allowed()
        if self._matcher.ended:
            return []
        token = self._sampler.sample(logits, allowed)
        if token in self._end_ids:
            return [token]
        self._follow([token])
        return [token, *self._forced(room - 1)]

    def _forced(self, room: int) -> list[int]:
        """The tokens that must come next, `room` of them at most."""
        assert self._matcher is not None
        tokens = self._matcher.forced()[:room]
        self._follow(tokens)
        for token in tokens:
            self._sampler.count(token)
        return tokens

    def _follow(self, tokens: Sequence[int]) -> None:
        assert self._matcher is not None
        if not self._matcher.take(tokens):
            raise GenerationError("The answer does not follow the grammar.")

    def _score(self, logits: NDArray[np.float32], token: int, characters: int) -> None:
        if self._scores is not None:
            self._scores.add(self._scorer.score(logits, token, self.params.logprobs or 0), characters)

    def finish(self, reason: FinishReason, text: str = "") -> None:
        """Ends the answer, with the text that was held back."""
        rest, stopped = self._text.finish(drops_half=self._matcher is not None)  # or the grammar has no such text
        delta = self._delta(text + rest, "stop" if stopped else reason)
        if self._scores is not None and not stopped:
            delta = replace(delta, tokens=delta.tokens + self._scores.take_all())
        self._complete(delta)

    def _complete(self, delta: Delta) -> None:
        if self._index + 1 < self.params.n:
            self.put(delta)
            self._begin(self._index + 1)
        else:
            self.end = delta

    def _delta(self, text: str, reason: FinishReason | None = None) -> Delta:
        prompt_scores, self.prompt_scores = self.prompt_scores, ()
        return Delta(
            text,
            len(self.prompt),
            self.cached_tokens,
            self._completion_tokens,
            finish_reason=reason,
            stop_sequence=self._text.met,
            index=self._index,
            tokens=() if self._scores is None else self._scores.take(len(text)),
            prompt=prompt_scores,
        )
