"""Samples a token from logits, in numpy. Knows nothing about text."""

import math
import random
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ggserve.engines.candidates import GREEDY, Candidates
from ggserve.engines.history import Breakers, Dry, History, Occurrences
from ggserve.generation import SamplingParams

_ENTIRE = 1 << 62  # tokens
_KNOW_NO_PROBABILITIES = {"penalties", "dry", "top_n_sigma", "top_k"}
_CHANGE_THE_LIKELIEST = ("penalties", "dry", "typ_p", "xtc")  # samplers that affect a greedy choice

Distribution = tuple[NDArray[np.intp], NDArray[np.float64]]  # ids and their probabilities


class Sampler:
    """Chooses the tokens of one answer. The same seed and logits give the same tokens.

    Order: `logit_bias` and forbidden tokens, then `SamplingParams.samplers` or Mirostat, then the draw.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt: Sequence[int],
        end_ids: Iterable[int],
        breakers: Breakers | None = None,  # of `dry_sequence_breakers`
    ) -> None:
        self._params = params
        # The generator must be reproducible, not secret.
        self._random = random.Random(params.seed)
        self._bias_ids = np.fromiter(params.logit_bias.keys(), dtype=np.intp)
        self._bias = np.fromiter(params.logit_bias.values(), dtype=np.float32)
        ends = set(end_ids)
        self._never = np.fromiter(ends if params.ignore_eos else (), dtype=np.intp)
        self._not_yet = np.fromiter(ends.union(params.stop_token_ids) if params.min_tokens else (), dtype=np.intp)
        self._only = None if params.allowed_token_ids is None else np.array(sorted(params.allowed_token_ids), np.intp)
        self._dry = (
            Dry(
                params.dry_multiplier,
                params.dry_base,
                params.dry_allowed_length,
                _ENTIRE if params.dry_penalty_last_n < 0 else params.dry_penalty_last_n,
                breakers or {},
            )
            if params.uses_dry
            else None
        )
        self._history = History(prompt)
        self._prompt_length = len(prompt)
        self._recount()
        self._bounds = [2 * params.mirostat_tau]  # Mirostat's limit of surprise in bits, before each token
        chain = params.active_samplers
        heats = "temperature" in chain
        before = chain[: chain.index("temperature")] if heats else chain
        heat = params.temperature + params.dynatemp_range if heats else 1.0
        self._greedy = heats and heat < GREEDY
        if self._greedy:
            chain = before = tuple(name for name in before if name in _CHANGE_THE_LIKELIEST)
        # Samplers before the temperature see the distribution without it.
        self._heat = max(heat, 1.0) if set(before) - _KNOW_NO_PROBABILITIES else max(heat, GREEDY)
        self._chain = chain
        self.drawn_from: Distribution = np.zeros(0, np.intp), np.zeros(0)  # the distribution of the last token

    def sample(
        self,
        logits: NDArray[np.float32],
        allowed: NDArray[np.bool_] | None = None,
        forbidden: Collection[int] = (),
    ) -> int:
        """Return the next token's id, from `logits` float32[n_vocab], which are not changed: one of the tokens in
        `allowed` bool[n_vocab], and none of `forbidden`.

        Raises GenerationError if the logits are not numbers, or no token is possible.
        """
        self.drawn_from = ids, probabilities = self.distribution(logits, allowed, forbidden)
        place = 0
        if len(ids) > 1:
            cumulative = probabilities.cumsum()
            drawn = self._random.random() * cumulative[-1]
            place = min(int(cumulative.searchsorted(drawn, side="right")), len(ids) - 1)
        if self._params.mirostat:
            error = -math.log2(max(float(probabilities[place]), 1e-30)) - self._params.mirostat_tau
            self._bounds.append(self._bounds[-1] - self._params.mirostat_eta * error)
        token = int(ids[place])
        self._count(token)
        return token

    def distribution(
        self,
        logits: NDArray[np.float32],
        allowed: NDArray[np.bool_] | None = None,
        forbidden: Collection[int] = (),
    ) -> Distribution:
        """Return the distribution that `sample` draws from. Raises GenerationError."""
        candidates = Candidates(self._masked(logits, allowed, forbidden), self._heat)
        for name in self._chain:
            self._apply(name, candidates, len(logits))
        if self._greedy:
            return candidates.likeliest(), np.ones(1)
        if self._params.mirostat == 1:
            candidates.zipf(self._bounds[-1], len(logits))
        elif self._params.mirostat == 2:
            candidates.surprise(self._bounds[-1])
        return candidates.probabilities()

    def count(self, token: int) -> None:
        """Record a token that `sample` did not choose."""
        self._bounds.append(self._bounds[-1])
        self._count(token)

    def rewind(self, tokens: int) -> None:
        """Forget the last tokens."""
        self._history.length -= tokens
        if self._params.mirostat:
            del self._bounds[-tokens:]
        self._recount()

    def _count(self, token: int) -> None:
        self._history.append(token)
        for counted in self._counted:
            counted.add(token)
            if 0 < (window := self._params.repeat_last_n or 0) < self._history.length:
                counted.add(self._history.before(window), -1)

    def _recount(self) -> None:
        params, history = self._params, self._history
        window = _ENTIRE if params.repeat_last_n in (None, -1) else params.repeat_last_n or 0
        repeats, lacks = params.repetition_penalty != 1, bool(params.presence_penalty or params.frequency_penalty)
        self._seen = self._said = Occurrences(history.last(window)) if repeats or lacks else None
        if lacks and params.repeat_last_n is None:
            self._said = Occurrences(history.last(history.length - self._prompt_length))
        self._counted = {id(each): each for each in (self._seen, self._said) if each is not None}.values()

    def _masked(
        self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None, forbidden: Collection[int]
    ) -> NDArray[np.float32]:
        if self._only is not None:
            masked = np.full_like(logits, -np.inf)
            masked[self._only] = logits[self._only]
            logits = masked
        early = len(self._not_yet) and self._history.length - self._prompt_length < self._params.min_tokens
        if len(self._bias_ids) or len(self._never) or early or forbidden:
            logits = logits.copy()
            logits[self._bias_ids] += self._bias
            logits[self._never] = -np.inf
            if early:
                logits[self._not_yet] = -np.inf
            logits[list(forbidden)] = -np.inf
        return logits if allowed is None else np.where(allowed, logits, np.float32(-np.inf))

    def _apply(self, name: str, candidates: Candidates, vocabulary: int) -> None:
        params = self._params
        match name:
            case "penalties":
                full = candidates.full(vocabulary)
                if self._seen and params.repetition_penalty != 1:
                    self._seen.repetition(full, params.repetition_penalty)
                if self._said and (params.presence_penalty or params.frequency_penalty):
                    self._said.subtract(full, params.presence_penalty, params.frequency_penalty)
                candidates.adjusted(full)
            case "dry":
                full = candidates.full(vocabulary)
                assert self._dry is not None
                self._dry.apply(full, self._history)
                candidates.adjusted(full)
            case "top_n_sigma":
                candidates.top_n_sigma(params.top_n_sigma)
            case "top_k":
                candidates.top_k(params.top_k)
            case "typ_p":
                candidates.typ_p(params.typical_p, params.min_keep)
            case "top_p":
                candidates.top_p(params.top_p, params.min_keep)
            case "min_p":
                candidates.min_p(params.min_p, params.min_keep)
            case "xtc":
                if self._random.random() <= params.xtc_probability:
                    candidates.xtc(params.xtc_threshold, params.min_keep)
            case "temperature":
                candidates.temperature(params.temperature, params.dynatemp_range, params.dynatemp_exponent)
