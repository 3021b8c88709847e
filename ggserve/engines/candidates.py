"""The candidates for the next token, and the samplers that narrow them. Each sampler is llama.cpp's of the same
name."""

import math

import numpy as np
from numpy.typing import NDArray

from ggserve.errors import GenerationError

# Tokens whose probability is below exp(-25) of the most likely one's are dropped before sorting: in a vocabulary of
# 250,000 they weigh less than 4e-6 together, and a few hundred tokens are left.
_NEGLIGIBLE = 25.0
_MIROSTAT_TOKENS = 100  # number of tokens from which the first Mirostat estimates Zipf's exponent
GREEDY = 1e-5  # below this temperature the most likely token is chosen; float32 could hardly divide by it


class Candidates:
    """Ids and logits of the tokens that may come next. Samplers narrow them in place."""

    def __init__(self, logits: NDArray[np.float32], heat: float) -> None:
        """`logits` float32[n_vocab] are not changed; `heat`: the highest temperature that may follow.

        Raises GenerationError if no logit is a number.
        """
        self.ids: NDArray[np.intp] | None = None  # None: the whole vocabulary
        self.logits = logits
        self._count = len(logits)  # including those that were dropped because they weigh nothing
        self._width = _NEGLIGIBLE * heat
        _check(logits.max())

    def adjusted(self, full: NDArray[np.float32]) -> None:
        """Take new logits float32[n_vocab] for the remaining tokens."""
        self.logits = full if self.ids is None else full[self.ids]
        _check(self.logits.max())

    def full(self, vocabulary: int) -> NDArray[np.float32]:
        """Return a copy of the logits float32[vocabulary], with minus infinity for tokens that were cut off."""
        if self.ids is None:
            return self.logits.copy()
        logits = np.full(vocabulary, -np.inf, np.float32)
        logits[self.ids] = self.logits
        return logits

    def top_k(self, k: int) -> None:
        """Keep the `k` most likely tokens."""
        if k >= self._count:
            return
        self._count = k
        if self.ids is not None:
            if len(self.ids) > k:
                self._keep(np.argpartition(self.logits, -k)[-k:])
            return
        # A narrow band usually contains the top k already: searching and sorting few tokens makes this fast.
        peak = self.logits.max()
        for width in (self._width / 5, self._width / 2, self._width):
            ids = (self.logits >= peak - width).nonzero()[0]
            if len(ids) >= k:
                ids = ids[np.argpartition(self.logits[ids], -k)[-k:]]
                break
        self.ids, self.logits = ids, self.logits[ids]

    def top_n_sigma(self, n: float) -> None:
        """Mask logits more than `n` standard deviations below the largest one (arXiv:2411.07641)."""
        finite = self.logits[np.isfinite(self.logits)]
        if n <= 0 or len(finite) < 2:
            return
        least = finite.max() - n * finite.std(dtype=np.float64)
        self.logits = np.where(self.logits < least, np.float32(-np.inf), self.logits)

    def temperature(self, temperature: float, spread: float = 0.0, exponent: float = 1.0) -> None:
        """Divide the logits by the temperature; with a `spread`, by a temperature that follows the entropy within that
        range around `temperature` (arXiv:2309.02772)."""
        if spread > 0:
            if self._count < 2:
                return
            weights = self._weights()
            entropy = float(-(weights * np.log(np.maximum(weights, 1e-30))).sum()) / math.log(self._count)
            low = max(0.0, temperature - spread)
            temperature = low + (temperature + spread - low) * max(entropy, 0.0) ** exponent
        if temperature < GREEDY:
            self._prune()
            self._keep(np.array([self.logits.argmax()]))
        else:
            self.logits = self.logits / np.float32(temperature)
            self._width = _NEGLIGIBLE

    def top_p(self, p: float, min_keep: int = 0) -> None:
        """Keep the smallest set whose probability reaches `p`."""
        cumulative = self._sorted().cumsum()
        self._first(int(cumulative.searchsorted(p * cumulative[-1])) + 1, min_keep)

    def min_p(self, p: float, min_keep: int = 0) -> None:
        """Keep tokens at least `p` times as likely as the most likely one."""
        self._prune()
        likely = self.logits >= self.logits.max() + np.float32(math.log(min(p, 1.0)))
        if np.count_nonzero(likely) >= min_keep:
            self._keep(likely.nonzero()[0])
        else:
            self._sorted()
            self._first(0, min_keep)

    def typ_p(self, p: float, min_keep: int = 0) -> None:
        """Keep the tokens whose surprise is nearest to the entropy, until their probability exceeds `p`
        (arXiv:2202.00666)."""
        weights = self._sorted()
        surprise = -np.log(np.maximum(weights, 1e-30))
        order = np.argsort(np.abs(surprise - (weights * surprise).sum()).astype(np.float32))
        self._keep(order)
        self._first(int(weights[order].cumsum().searchsorted(p, side="right")) + 1, min_keep)

    def xtc(self, threshold: float, min_keep: int = 0) -> None:
        """Drop all tokens at least as likely as `threshold`, except the least likely of them."""
        last = int(np.count_nonzero(self._sorted() >= threshold)) - 1
        if last > 0 and self._count - last >= min_keep:
            self._keep(np.arange(last, len(self.logits)))
            self._count -= last

    def surprise(self, most: float) -> None:
        """Keep the most likely token, and those whose surprise in bits is at most `most`: Mirostat 2.0."""
        weights = self._weights()
        self._keep((weights >= min(2.0**-most, weights.max())).nonzero()[0])

    def zipf(self, most: float, vocabulary: int) -> None:
        """Keep as many tokens as have a mean surprise of `most` bits under Zipf's law: Mirostat (arXiv:2007.14966)."""
        finite = self.logits[np.isfinite(self.logits)]
        count = min(_MIROSTAT_TOKENS, len(finite))
        likeliest = -np.sort(-np.partition(finite, -count)[-count:]).astype(np.float64)
        ranks = np.arange(1, count)
        distances, ratios = np.log((ranks + 1) / ranks), likeliest[:-1] - likeliest[1:]
        exponent = float(distances @ ratios / (distances @ distances)) if count > 1 else 1.0
        excess = exponent - 1 or 1e-9  # at its limit the next line would divide by 0
        kept = (excess * 2**most / (1 - vocabulary**-excess)) ** (1 / max(exponent, 1e-3))
        self.top_k(max(1, int(min(kept, vocabulary))))

    def likeliest(self) -> NDArray[np.intp]:
        """Keep only the most likely token and return its id."""
        place = self.logits.argmax()
        return np.array([place if self.ids is None else self.ids[place]], np.intp)

    def probabilities(self) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Return the ids of the remaining tokens, and their probabilities float64[n]."""
        weights = self._weights()
        assert self.ids is not None
        return self.ids, weights

    def _weights(self) -> NDArray[np.float64]:
        self._prune()
        weights: NDArray[np.float64] = np.exp(self.logits - self.logits.max()).astype(np.float64)
        weights /= weights.sum()
        return weights

    def _sorted(self) -> NDArray[np.float64]:
        """Return the probabilities after sorting the tokens by them, the most likely first."""
        weights = self._weights()
        order = np.argsort(-self.logits)
        self._keep(order)
        return weights[order]

    def _prune(self) -> None:
        if self.ids is None:
            self.ids = (self.logits >= self.logits.max() - self._width).nonzero()[0]
            self.logits = self.logits[self.ids]

    def _keep(self, places: NDArray[np.intp]) -> None:
        assert self.ids is not None
        if len(places) < len(self.ids):
            self._count = len(places)
        self.ids, self.logits = self.ids[places], self.logits[places]

    def _first(self, count: int, min_keep: int) -> None:
        assert self.ids is not None
        count = max(count, min_keep)
        if count < len(self.ids):
            self.ids, self.logits, self._count = self.ids[:count], self.logits[:count], count


def _check(logit: np.float32) -> None:
    """Raise GenerationError if the largest logit is not a number."""
    if logit == -np.inf:
        raise GenerationError("No token is allowed next: the request bans all of them.")
    if not np.isfinite(logit):
        raise GenerationError("The model computed logits that are not finite numbers: the file may be damaged.")
