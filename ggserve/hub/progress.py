"""The progress of a download."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of the download of one file."""

    file: str
    digest: str  # SHA-256, or what the hub returns instead
    total: int  # bytes
    completed: int


Watch = Callable[[Progress], object]  # raise in it to stop the download
