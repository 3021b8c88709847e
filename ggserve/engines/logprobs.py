"""Log-probabilities: from logits to scores, and the scores that belong to the text that is shown."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ggserve.generation import ScoredToken

_LEAST = -9999.0  # in place of minus infinity, which JSON cannot express
_WIDTHS = (4.0, 8.0, 16.0, 32.0)  # below the largest logit: usually few tokens are that near, and quickly sorted
_KEPT = 2  # number of prompts


class Scorer:
    """Scores tokens of one vocabulary from logits float32[n_vocab]."""

    def __init__(self, pieces: Sequence[bytes], spelling: Callable[[int], bytes]) -> None:
        """`pieces`: by token id, the bytes that it adds to a text; `spelling`: the spelling of a token in the file."""
        self._pieces = pieces
        self._spelling = spelling

    def score(self, logits: NDArray[np.float32], token: int, top: int) -> ScoredToken:
        """Return a token scored by `logits`, with the `top` likeliest in its place."""
        peak, norm = _norm(logits)

        def scored(other: int, *, top: tuple[ScoredToken, ...] = ()) -> ScoredToken:
            return self._scored(other, float(logits[other]) - norm, top)

        return scored(token, top=tuple(scored(other) for other in likeliest(logits, peak, top)))

    def drawn(self, ids: NDArray[np.intp], probabilities: NDArray[np.float64], token: int, top: int) -> ScoredToken:
        """Return a token that was drawn by these probabilities, with the `top` likeliest of them."""
        order = np.argsort(-probabilities, kind="stable")
        logprobs = dict(
            zip(ids[order].tolist(), np.log(np.maximum(probabilities[order], 1e-300)).tolist(), strict=True)
        )
        alternatives = tuple(self._scored(other, logprobs[other]) for other in [*logprobs][:top])
        return self._scored(token, logprobs.get(token, 0.0), alternatives)

    def _scored(self, token: int, logprob: float, top: tuple[ScoredToken, ...] = ()) -> ScoredToken:
        piece = self._pieces[token]
        return ScoredToken(token, piece or self._spelling(token), max(logprob, _LEAST), top, control=not piece)

    def unscored(self, token: int) -> ScoredToken:
        """Return a token that nothing comes before."""
        piece = self._pieces[token]
        return ScoredToken(token, piece or self._spelling(token), None, control=not piece)


def logprobs_of(logits: NDArray[np.float32], tokens: Iterable[int]) -> list[float]:
    """Return the log-probabilities of tokens, given `logits`."""
    _, norm = _norm(logits)
    return [max(float(logits[token]) - norm, _LEAST) for token in tokens]


def _norm(logits: NDArray[np.float32]) -> tuple[float, float]:
    """Return the largest logit, and the logarithm of the softmax's denominator."""
    peak = float(logits.max())
    # The sum is in float64, or 50,000 small terms would lose digits.
    return peak, peak + float(np.log(np.exp(logits - np.float32(peak)).sum(dtype=np.float64)))


def likeliest(logits: NDArray[np.float32], peak: float, count: int) -> list[int]:
    """Return the ids of the `count` largest logits, the largest first; of equal ones the lowest id."""
    if count == 0:
        return []
    for width in _WIDTHS:
        near = (logits >= peak - width).nonzero()[0]
        if len(near) >= count:
            break
    else:
        near = np.arange(len(logits))
    order = np.argsort(-logits[near], kind="stable")[:count]
    ids: list[int] = near[order].tolist()
    return ids


class ShownTokens:
    """Holds scored tokens back until the text that they begin in is shown."""

    def __init__(self) -> None:
        self._held: deque[tuple[int, ScoredToken]] = deque()  # with the number of characters before each
        self._made = self._shown = 0  # characters shown

    def add(self, token: ScoredToken, characters: int) -> None:
        """Take the next token, and the number of characters that it completed."""
        self._held.append((self._made, token))
        self._made += characters

    def take(self, characters: int) -> tuple[ScoredToken, ...]:
        """Return the tokens of the next piece of text that is shown, which has this many characters."""
        self._shown += characters
        taken = []
        while self._held and self._held[0][0] < self._shown:
            taken.append(self._held.popleft()[1])
        return tuple(taken)

    def take_all(self) -> tuple[ScoredToken, ...]:
        """Return the rest, when nothing more will arrive."""
        rest = tuple(token for _, token in self._held)
        self._held.clear()
        return rest


class PromptScores:
    """The scores of the last prompts: requests for scores often share the beginning of the prompt."""

    def __init__(self) -> None:
        self._kept: deque[tuple[int, list[ScoredToken]]] = deque(maxlen=_KEPT)

    def known(self, prompt: Sequence[int], top: int) -> list[ScoredToken]:
        """Return the known scores of the prompt's first tokens, with `top` likeliest each."""
        found: list[ScoredToken] = []
        for kept_top, scores in tuple(self._kept):
            if kept_top != top:
                continue
            common = 0
            while common < min(len(scores), len(prompt)) and scores[common].id == prompt[common]:
                common += 1
            if common > len(found):
                found = scores[:common]
        return found

    def keep(self, scores: list[ScoredToken], top: int) -> None:
        """Remember the scores of a prompt."""
        if (top, scores) not in self._kept:
            self._kept.append((top, scores))
