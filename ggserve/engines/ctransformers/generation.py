"""A running request of the ctransformers engine: its prompt, its sampler, its text so far."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ggserve.engines.banned import BannedStrings, Token
from ggserve.engines.history import Breakers
from ggserve.engines.logprobs import Scorer, ShownTokens
from ggserve.engines.request import RunningRequest
from ggserve.engines.sampling import Sampler
from ggserve.engines.stop_strings import TextStream
from ggserve.errors import GenerationError
from ggserve.generation import Delta, FinishReason, SamplingParams, ScoredToken
from ggserve.grammar.matcher import Matcher


class Generation(RunningRequest):
    """The answers of a running request, one after the other, token by token."""

    def __init__(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        pieces: Sequence[bytes],
        end_ids: frozenset[int],
        scorer: Scorer,
        context_length: int,
        matcher: Matcher | None = None,  # constrains the answer to a grammar
        breakers: Breakers | None = None,  # for DRY
    ) -> None:
        super().__init__(params)
        self.prompt = list(prompt)
        self.cached_tokens = 0
        self.prompt_scores: tuple[ScoredToken, ...] = ()  # sent with the first delta
        self._prompt_ids = tuple(prompt)  # sent with the first delta
        self._containing: set[int] | None = None  # tokens that contain a banned string by themselves
        self.rewound = False  # True if tokens were dropped since the last step
        self._pieces = pieces
        self._breakers = breakers
        self._all_end_ids = end_ids
        self._end_ids = params.stop_token_ids if params.ignore_eos else end_ids | params.stop_token_ids
        self._scorer = scorer
        self._grammar = matcher
        room = context_length - len(self.prompt)
        self._max_tokens = room if params.max_tokens is None else min(params.max_tokens, room)
        self._begin(0)

    def _begin(self, index: int) -> None:
        """Start the answer with this number."""
        params = self.params
        seed = None if params.seed is None else params.seed + index
        self._index = index
        self._sampler = Sampler(replace(params, seed=seed), self.prompt, self._all_end_ids, self._breakers)
        self._text = TextStream(self._pieces, params.stop, shows_stop=params.include_stop)
        self._banned = BannedStrings(params)
        self._matcher = self._grammar and self._grammar.copy()
        self._scores = None if params.logprobs is None else ShownTokens()
        self._stop_token: int | None = None
        self._completion_tokens = 0
        self.answer: list[int] = []  # the tokens of the current answer

    @property
    def wants_tokens(self) -> bool:
        return self._max_tokens > 0

    def step(self, logits: NDArray[np.float32]) -> list[int]:
        """Choose the next token and the forced tokens after it, send their text, and return the tokens to evaluate
        next; none if the answer is complete. After a banned string, return the last token before it, with `rewound`
        set."""
        tokens = self._choose(logits)
        shown = ""
        for token in tokens:
            self.answer.append(token)
            ready, back = self._banned.push(Token(token, self._pieces[token], self._scored(logits, token)))
            ends = token in self._end_ids
            for each in ready + (self._banned.finish() if ends else []):
                if each.id in self._end_ids:
                    self._completion_tokens += 1
                    self._end(each, shown)
                    return []
                text, stopped = self._show(each)
                shown += text
                if stopped:
                    self._complete(self._delta(shown, "stop"))
                    return []
            if back:
                return self._rewind(back, shown)
        if self._matcher is not None and self._matcher.ended:
            self.finish("stop", shown)
            return []
        if len(self.answer) >= self._max_tokens:
            self.finish("length", shown)
            return []
        if shown:
            self.put(self._delta(shown))
        return tokens

    def _show(self, token: Token) -> tuple[str, bool]:
        """Return the text that a token completes, and whether a stop string was met."""
        self._completion_tokens += 1
        before = self._text.characters
        text, stopped = self._text.push(token.id, may_stop=self._completion_tokens > self.params.min_tokens)
        self._keep(token.score, self._text.characters - before)
        return text, stopped

    def _end(self, token: Token, shown: str) -> None:
        """End the answer with an end token."""
        text = ""
        if token.id in self.params.stop_token_ids:
            self._stop_token = token.id
            text = self._text.push(token.id, may_stop=False)[0] if self.params.include_stop else ""
        self._keep(token.score, len(text))
        self.finish("stop", shown + text)

    def _rewind(self, back: int, shown: str) -> list[int]:
        """Drop the last tokens. Return the token before them, whose logits are needed again."""
        self.rewound = True
        self._sampler.rewind(back)
        del self.answer[-back:]
        if shown:
            self.put(self._delta(shown))
        return [(self.answer or self.prompt)[-1]]

    def _choose(self, logits: NDArray[np.float32]) -> list[int]:
        """Return the next token and all tokens that the grammar forces after it; none if nothing can follow."""
        if self._matcher is None:
            return [self._sampler.sample(logits, forbidden=self._forbidden())]
        # Log-probabilities need the logits before each token, so tokens are returned one by one.
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
        """Return the forced tokens, at most `room`."""
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

    def _forbidden(self) -> set[int]:
        """Return the tokens that a banned string excludes here."""
        if not self._banned.watches:
            return set()
        if self._containing is None:
            self._containing = self._banned.containing(self._pieces)
        return self._banned.forbidden | self._containing

    def _scored(self, logits: NDArray[np.float32], token: int) -> ScoredToken | None:
        if self._scores is None:
            return None
        top = self.params.logprobs or 0
        if self.params.sampled_probabilities:
            return self._scorer.drawn(*self._sampler.drawn_from, token, top)
        return self._scorer.score(logits, token, top)

    def _keep(self, score: ScoredToken | None, characters: int) -> None:
        if self._scores is not None and score is not None:
            self._scores.add(score, characters)

    def finish(self, reason: FinishReason, text: str = "") -> None:
        """End the answer, with the text that was held back."""
        for token in self._banned.finish():
            more, stopped = self._show(token)
            text += more
            if stopped:
                self._complete(self._delta(text, "stop"))
                return
        rest, stopped = self._text.finish(
            drops_half=self._matcher is not None
        )  # half a character would violate the grammar
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
        prompt_ids, self._prompt_ids = self._prompt_ids, ()
        return Delta(
            text,
            len(self.prompt),
            self.cached_tokens,
            self._completion_tokens,
            finish_reason=reason,
            stop_sequence=self._text.met,
            stop_token=self._stop_token,
            index=self._index,
            tokens=() if self._scores is None else self._scores.take(len(text)),
            prompt=prompt_scores,
            prompt_ids=prompt_ids,
            cache_miss=self.progress.miss,
        )
