"""Checks that the norms of a file are numbers. They are small, and one NaN makes every answer garbage.

llama.cpp would answer all the same. The large weights are not checked.
"""

from contextlib import ExitStack

import numpy as np

from ggserve.errors import ModelFileError
from ggserve.modelfile.file import ModelFile


def check_norms(file: ModelFile) -> None:
    """Read some kB per layer. Raises ModelFileError if a norm has a value that is not a finite number."""
    norms = [t for t in file.tensors.values() if "norm" in t.name and t.type_name == "F32" and len(t.shape) == 1]
    try:
        with ExitStack() as stack:
            readers = [stack.enter_context(path.open("rb")) for path in file.paths]
            for norm in norms:
                reader = readers[norm.part]
                reader.seek(norm.offset)
                if not np.isfinite(np.frombuffer(reader.read(norm.nbytes), "<f4")).all():
                    raise ModelFileError(
                        f"{file.path.name}: {norm.name} has values that are not numbers: the file is damaged"
                    )
    except OSError as error:
        raise ModelFileError(f"{file.path.name}: cannot be read: {error.strerror or error}") from error
