"""The progress of a download."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the download of a file is."""

    file: str
    digest: str  # SHA-256, or what the hub tells instead
    total: int  # bytes
    completed: int


Watch = Callable[[Progress], object]  # ends a download by raising
