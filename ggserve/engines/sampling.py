"""Logits to a token, in numpy. Knows nothing about text."""

import random
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ggserve.errors import GenerationError
from ggserve.generation import SamplingParams

# Tokens whose probability is below exp(-25) of the most likely one's are dropped before anything is sorted: in a
# vocabulary of 250,000 they weigh less than 4e-6 together, and what is left is a few hundred tokens.
_NEGLIGIBLE = 25.0
_GREEDY = 1e-5  # a temperature below this draws the most likely token, and float32 could hardly divide by it


class Sampler:
    """Chooses the tokens of one answer. The same seed and logits give the same tokens."""

    def __init__(self, params: SamplingParams, prompt: Sequence[int], end_ids: Iterable[int]) -> None:
        self._params = params
        # Only the generator's reproducibility matters here, not its secrecy.
        self._random = random.Random(params.seed)
        self._bias_ids = np.fromiter(params.logit_bias.keys(), dtype=np.intp)
        self._bias = np.fromiter(params.logit_bias.values(), dtype=np.float32)
        self._banned = np.fromiter(end_ids if params.ignore_eos else (), dtype=np.intp)
        self._seen = np.unique(np.asarray(prompt, dtype=np.intp)) if params.repetition_penalty != 1 else None
        self._counts: dict[int, int] | None = {} if params.presence_penalty or params.frequency_penalty else None
        self._adjusts = bool(
            len(self._bias_ids) or len(self._banned) or self._seen is not None or self._counts is not None
        )

    def sample(self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None = None) -> int:
        """The next token's id, from `logits` float32[n_vocab], which stay as they are, of the tokens that `allowed`
        bool[n_vocab] names.

        Raises GenerationError when the logits are not numbers.
        """
        if self._adjusts:
            logits = self._adjusted(logits)
        if allowed is not None:
            logits = np.where(allowed, logits, np.float32(-np.inf))
        if self._params.temperature < _GREEDY:
            token = int(logits.argmax())
            self._check(logits[token])
        else:
            token = self._draw(logits)
        self.count(token)
        return token

    def _draw(self, logits: NDArray[np.float32]) -> int:
        params = self._params
        peak = logits.max()
        self._check(peak)
        ids = self._candidates(logits, peak)
        # Relative to the most likely token's, which is 1.
        probabilities = np.exp((logits[ids] - peak) / np.float32(params.temperature))
        if params.top_p < 1:  # the smallest set whose probability reaches top_p
            order = np.argsort(-probabilities, kind="stable")
            ids, probabilities = ids[order], probabilities[order]
            cumulative = probabilities.cumsum(dtype=np.float64)
            count = int(cumulative.searchsorted(params.top_p * cumulative[-1])) + 1
            ids, probabilities = ids[:count], probabilities[:count]
        if params.min_p > 0:  # relative to the most likely token
            likely = probabilities >= min(params.min_p, 1.0)
            ids, probabilities = ids[likely], probabilities[likely]
        cumulative = probabilities.cumsum(dtype=np.float64)
        drawn = self._random.random() * cumulative[-1]
        return int(ids[min(int(cumulative.searchsorted(drawn, side="right")), len(ids) - 1)])

    def _candidates(self, logits: NDArray[np.float32], peak: np.float32) -> NDArray[np.intp]:
        """The ids of the top_k most likely tokens, or of all that are not negligible."""
        top_k, temperature = self._params.top_k, self._params.temperature
        if top_k == 0:
            return (logits >= peak - _NEGLIGIBLE * temperature).nonzero()[0]
        # Most often a narrow band holds the top k already: searching and sorting few tokens is what makes this fast.
        for width in (_NEGLIGIBLE / 5, _NEGLIGIBLE / 2, _NEGLIGIBLE):
            ids = (logits >= peak - width * temperature).nonzero()[0]
            if len(ids) >= top_k:
                return ids[np.argpartition(logits[ids], -top_k)[-top_k:]]
        return ids

    def _adjusted(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        params = self._params
        logits = logits.copy()
        if self._seen is not None:
            seen = logits[self._seen]
            logits[self._seen] = np.where(seen > 0, seen / params.repetition_penalty, seen * params.repetition_penalty)
        if self._counts:
            ids = np.fromiter(self._counts.keys(), dtype=np.intp)
            counts = np.fromiter(self._counts.values(), dtype=np.float32)
            logits[ids] -= params.presence_penalty + params.frequency_penalty * counts
        if len(self._bias_ids):
            logits[self._bias_ids] += self._bias
        if len(self._banned):
            logits[self._banned] = -np.inf
        return logits

    def count(self, token: int) -> None:
        """Takes note of a token for the penalties; of those that `sample` chose it has been taken."""
        if self._counts is not None:
            self._counts[token] = self._counts.get(token, 0) + 1
        if self._seen is not None and token not in self._seen:
            self._seen = np.append(self._seen, token)

    @staticmethod
    def _check(logit: np.float32) -> None:
        if not np.isfinite(logit):
            raise GenerationError("The model computed values that are not numbers: the file may be damaged.")
