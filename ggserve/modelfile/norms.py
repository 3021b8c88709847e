"""Check that a file's norms are finite numbers. They are small, and a single NaN in them turns every answer into
garbage.

llama.cpp would load the file anyway. The large weights are not checked.
"""

from contextlib import ExitStack

import numpy as np

from ggserve.errors import ModelFileError
from ggserve.modelfile.file import ModelFile


def check_norms(file: ModelFile) -> None:
    """Read a few kB per layer. Raises ModelFileError if a norm has a value that is not finite."""
    norms = [t for t in file.tensors.values() if "norm" in t.name and t.type_name == "F32" and len(t.shape) == 1]
    try:
        with ExitStack() as stack:
            readers = [stack.enter_context(path.open("rb")) for path in file.paths]
            for norm in norms:
                reader = readers[norm.part]
                reader.seek(norm.offset)
                if not np.isfinite(np.frombuffer(reader.read(norm.nbytes), "<f4")).all():
                    raise ModelFileError(
                        f"{file.path.name}: {norm.name} has values that are not finite: the file is damaged"
                    )
    except OSError as error:
        raise ModelFileError(f"{file.path.name}: cannot be read: {error.strerror or error}") from error
