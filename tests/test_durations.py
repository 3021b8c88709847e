"""Durations as Ollama's clients write them."""

import math

import pytest

from ggserve.durations import seconds


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, 0), (300, 300), (1.5, 1.5), ("5m", 300), ("1h30m", 5400), ("100ms", 0.1), ("42", 42), ("0", 0), (" 5s ", 5)]
    + [(value, math.inf) for value in (-1, "-1", "-1m", "-5h", 1e30, math.inf)],
)
def test_a_duration_is_seconds(value: object, expected: float) -> None:
    assert seconds(value) == pytest.approx(expected)


@pytest.mark.parametrize("value", ["", "soon", "5 minutes", "m", "5x", "--1", "1e5", True, None, [], math.nan, "nan"])
def test_anything_else_is_an_error(value: object) -> None:
    with pytest.raises(ValueError, match="a number of seconds or a duration"):
        seconds(value)
