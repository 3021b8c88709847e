"""Derive the merges of a byte-level BPE from its vocabulary: a token's id is the rank of the merge that made it.

Training appends the result of each merge to the vocabulary. So applying the merges with smaller ids to a token's bytes
leaves the two halves that its own merge joined. Tokens that leave more than two parts were added whole, not merged.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NONE = np.iinfo(np.int64).max
_LONGEST = 512  # bytes; longer tokens get no merge


def derive_merges(tokens: Sequence[bytes], plain: NDArray[np.bool_]) -> tuple[list[tuple[int, int, int]], list[int]]:
    """Return the merges of the `plain` raw-byte `tokens` as (left, right, result) ids in order of rank, and the ids of
    plain tokens of several bytes that no merge makes."""
    lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
    lengths[~plain] = 0
    offsets = np.concatenate([[0], np.cumsum(np.fromiter(map(len, tokens), np.int64, len(tokens)))[:-1]])
    data = np.frombuffer(b"".join(tokens), np.uint8)
    of_byte = np.full(256, -1, np.int64)
    singles = np.flatnonzero(lengths == 1)
    of_byte[data[offsets[singles]]] = singles
    table = _Pairs()
    merges: list[NDArray[np.int64]] = []
    left_over = np.flatnonzero(lengths > _LONGEST).tolist()
    for length in np.unique(lengths[(lengths > 1) & (lengths <= _LONGEST)]).tolist():
        # All merges with shorter results are known at this point, and no others can apply inside these tokens.
        ids = np.flatnonzero(lengths == length)
        symbols = of_byte[data[offsets[ids][:, None] + np.arange(length)]]
        done, halves = _reduce(ids, symbols, table)
        left_over += ids[~done].tolist()
        found = np.column_stack([halves[done], ids[done]])
        merges.append(found)
        table.add(found)
    if not merges:
        return [], left_over
    ranked = np.concatenate(merges)
    ranked = ranked[np.argsort(ranked[:, 2])]
    return [(a, b, c) for a, b, c in ranked.tolist()], sorted(left_over)


class _Pairs:
    """Pairs of ids and the id that each pair merges to."""

    def __init__(self) -> None:
        self._keys = np.empty(0, np.int64)
        self._results = np.empty(0, np.int64)

    def add(self, merges: NDArray[np.int64]) -> None:
        keys = np.concatenate([self._keys, merges[:, 0] << 32 | merges[:, 1]])
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._results = np.concatenate([self._results, merges[:, 2]])[order]

    def find(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the result of each pair, or _NONE if it does not merge."""
        if not len(self._keys):
            return np.full(left.shape, _NONE)
        keys = left << 32 | right
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, self._results[at], _NONE)


def _reduce(ids: NDArray[np.int64], symbols: NDArray[np.int64], table: _Pairs) -> tuple[NDArray[np.bool_], Any]:
    """Apply BPE to all rows of `symbols` at once, each with the merges below its own id, down to two symbols per row.

    Every step merges one pair in each row, so all rows keep the same length. Rows with no merge left are dropped.
    """
    alive = (symbols >= 0).all(axis=1)
    rows = np.flatnonzero(alive)
    symbols, limits = symbols[rows], ids[rows]
    while symbols.shape[1] > 2 and len(rows):
        ranks = table.find(symbols[:, :-1], symbols[:, 1:])
        ranks[ranks >= limits[:, None]] = _NONE
        best = ranks.argmin(axis=1)
        lowest = ranks[np.arange(len(rows)), best]
        going = lowest != _NONE
        rows, symbols, limits, best, lowest = (a[going] for a in (rows, symbols, limits, best, lowest))
        columns = np.arange(symbols.shape[1] - 1)
        symbols = np.where(columns <= best[:, None], symbols[:, :-1], symbols[:, 1:])
        symbols[np.arange(len(rows)), best] = lowest
    done = np.zeros(len(ids), np.bool_)
    halves = np.zeros((len(ids), 2), np.int64)
    if len(rows):
        done[rows] = True
        halves[rows] = symbols
    return done, halves
