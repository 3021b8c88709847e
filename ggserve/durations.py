"""Durations in requests and settings, in Ollama's notation: seconds, or Go's format ("5m", "1h30m", "-1")."""

import math
import re

_UNITS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|s|m|h|)")
_EXPECTED = "should be a number of seconds or a duration such as '5m'; -1 keeps the model loaded, 0 unloads it"
_LONGEST = 1e9  # seconds; a longer duration counts as infinite


def seconds(value: object) -> float:
    """Return a duration in seconds, or `math.inf` if it is negative. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(_EXPECTED)
    if isinstance(value, str):
        text = value.strip()
        parts = _PART.findall(text.removeprefix("-"))
        if not parts or "".join(number + unit for number, unit in parts) != text.removeprefix("-"):
            raise ValueError(_EXPECTED)
        total = sum(float(number) * _UNITS[unit] for number, unit in parts)
        value = -total if text.startswith("-") else total
    if math.isnan(value):
        raise ValueError(_EXPECTED)
    return math.inf if value < 0 or value > _LONGEST else float(value)
