"""Read a large file into the page cache before an engine maps it, to report progress.

The engines' loaders report no progress, and llama.cpp's holds the GIL while it loads.
"""

from collections.abc import Callable

from tqdm import tqdm  # type: ignore[import-untyped]

from ggserve.errors import ModelFileError
from ggserve.machine import free_memory
from ggserve.modelfile.file import ModelFile

_SMALL = 256 << 20  # bytes; a smaller file loads fast enough without progress
_CHUNK = 16 << 20
_SILENT = 1.0  # seconds before the console shows a progress bar


def read_ahead(file: ModelFile, report: Callable[[float], object]) -> None:
    """Read the file once, unless it is small or larger than the free memory. `report` receives the fraction read, 0 to
    1. Raises ModelFileError if it cannot be read."""
    if not _SMALL <= file.size < free_memory():
        return
    buffer = bytearray(_CHUNK)
    try:
        with tqdm(total=file.size, desc=file.path.name, unit="B", unit_scale=True, delay=_SILENT) as bar:
            for path in file.paths:
                with path.open("rb", buffering=0) as reader:
                    while count := reader.readinto(buffer):
                        bar.update(count)
                        report(bar.n / file.size)
    except OSError as error:
        raise ModelFileError(f"{file.path.name}: cannot be read: {error.strerror or error}") from error
