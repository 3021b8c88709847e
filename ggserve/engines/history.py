"""The tokens of a prompt and its answer for penalties: how often each occurs, and which ones repeat."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Breakers = Mapping[int, Sequence[tuple[int, ...]]]  # by their first token, the rest of token sequences

_LONGEST_BREAKER = 40  # bytes
_LONGEST_TAIL = 20  # tokens
_LOG_LARGEST = 88.7228391  # natural logarithm of the largest float32


class History:
    """Token ids that grow at their end."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = np.zeros(max(64, 2 * len(tokens)), np.intp)
        self._tokens[: len(tokens)] = tokens
        self.length = len(tokens)

    def append(self, token: int) -> None:
        """Add a token."""
        if self.length == len(self._tokens):
            self._tokens = np.concatenate((self._tokens, np.zeros_like(self._tokens)))
        self._tokens[self.length] = token
        self.length += 1

    def last(self, count: int) -> NDArray[np.intp]:
        """Return the last `count` tokens, or all if there are fewer; a view."""
        return self._tokens[max(0, self.length - count) : self.length]

    def before(self, count: int) -> int:
        """Return the token that has `count` tokens after it."""
        return int(self._tokens[self.length - 1 - count])


class Occurrences:
    """The number of occurrences of each token."""

    def __init__(self, tokens: NDArray[np.intp]) -> None:
        self._ids, counts = np.unique(tokens, return_counts=True)
        self._counts = counts.astype(np.float32)
        self._places = {int(token): place for place, token in enumerate(self._ids)}

    def add(self, token: int, times: int = 1) -> None:
        """Count a token once more, or once less."""
        place = self._places.get(token)
        if place is None:
            place = self._places[token] = len(self._ids)
            self._ids = np.append(self._ids, token)
            self._counts = np.append(self._counts, np.float32(0))
        self._counts[place] += times

    def repetition(self, logits: NDArray[np.float32], penalty: float) -> None:
        """Divide positive logits of tokens that occur by `penalty`, and multiply others (arXiv:1909.05858)."""
        ids = self._ids[self._counts > 0]
        seen = logits[ids]
        logits[ids] = np.where(seen > 0, seen / np.float32(penalty), seen * np.float32(penalty))

    def subtract(self, logits: NDArray[np.float32], presence: float, frequency: float) -> None:
        """Subtract `presence` from the logits of tokens that occur, and `frequency` for each occurrence."""
        logits[self._ids] -= np.float32(presence) * (self._counts > 0) + np.float32(frequency) * self._counts


class Dry:
    """The "Don't Repeat Yourself" penalty on tokens that would continue a repetition of more than `allowed` tokens,
    larger for longer ones. A breaker ends a repetition. As llama.cpp defines it."""

    def __init__(self, multiplier: float, base: float, allowed: int, last_n: int, breakers: Breakers) -> None:
        self._multiplier = multiplier
        self._base = base
        self._allowed = allowed
        self._last_n = last_n
        self._breakers = breakers
        self._heads = np.array(sorted(breakers), np.intp)
        self._exempt = {head for head, tails in breakers.items() if () in tails}
        self._most = int(_LOG_LARGEST / math.log(base)) if base > 1.000001 else 1 << 20  # more would overflow

    def apply(self, logits: NDArray[np.float32], history: History) -> None:
        """Subtract the penalties from logits float32[n_vocab]."""
        tokens = history.last(self._last_n)
        if len(tokens) <= self._allowed:
            return
        limit = self._since_breaker(tokens)
        if limit < self._allowed:
            return
        lengths = self._lengths(tokens, limit)
        ends = (lengths >= self._allowed).nonzero()[0]
        exponents: dict[int, int] = {}
        for token, length in zip(tokens[ends + 1].tolist(), lengths[ends].tolist(), strict=True):
            exponents[token] = max(exponents.get(token, 0), length - self._allowed)
        for token, exponent in exponents.items():
            if token not in self._exempt:
                logits[token] -= np.float32(self._multiplier * self._base ** min(exponent, self._most))

    def _since_breaker(self, tokens: NDArray[np.intp]) -> int:
        """Return the number of tokens after the last breaker."""
        count = len(tokens)
        for place in np.isin(tokens, self._heads).nonzero()[0][::-1].tolist():
            fitting = [
                len(tail)
                for tail in self._breakers[int(tokens[place])]
                if place + len(tail) < count and tuple(tokens[place + 1 : place + 1 + len(tail)].tolist()) == tail
            ]
            if fitting:
                return count - 1 - int(place) - max(fitting)
        return count

    def _lengths(self, tokens: NDArray[np.intp], limit: int) -> NDArray[np.intp]:
        """Return, for each place but the last, how many tokens up to it equal those at the end, at most `limit`."""
        last = len(tokens) - 1
        lengths = np.zeros(last, np.intp)
        places = (tokens[:last] == tokens[last]).nonzero()[0]
        length = 0
        while len(places) and length < min(limit, self._allowed + self._most):
            length += 1
            lengths[places] = length
            places = places[places >= length]
            places = places[tokens[places - length] == tokens[last - length]]
        return lengths


def breakers(texts: Sequence[str], pieces: Sequence[bytes], encode: Callable[[str], list[int]]) -> Breakers:
    """Return the token sequences that contain one of the texts: a token that contains it, or one that ends with its
    beginning and the tokens of the rest. `pieces`: by token id, its bytes."""
    found: dict[int, list[tuple[int, ...]]] = {}
    for text in texts:
        wanted = text.encode()[:_LONGEST_BREAKER]
        for token, piece in enumerate(pieces):
            if wanted in piece:
                found.setdefault(token, []).append(())
                continue
            for size in range(min(len(wanted) - 1, len(piece)), 0, -1):
                if piece.endswith(wanted[:size]):
                    tail = tuple(encode(wanted[size:].decode(errors="ignore"))[:_LONGEST_TAIL])
                    if tail not in found.setdefault(token, []):
                        found[token].append(tail)
    return found
