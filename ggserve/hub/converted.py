"""Legacy files converted to GGUF, once, and kept in a folder under the name of the original."""

from collections.abc import Callable
from pathlib import Path

from ggserve.errors import ModelFileError
from ggserve.hub.default import is_conversion, make_folder
from ggserve.modelfile.convert import convert
from ggserve.modelfile.gguf import read_gguf
from ggserve.modelfile.legacy.ggml import GGMLFile
from ggserve.modelfile.legacy.to_gguf import SOURCE_DIGEST, source_digest


def as_gguf(
    file: GGMLFile, folder: Path, chat_template: str | None, report: Callable[[float], object] | None = None
) -> Path:
    """Return the GGUF of a legacy file in `folder`. It is made on the first call, and again when the file, its family
    or the chat template (Jinja2) changes. `report` receives the fraction written, 0 to 1.

    Raises ModelFileError if llama.cpp cannot run the model, or the folder or its disk cannot take the file.
    """
    target = folder / f"{file.path.stem}.from-ggml.gguf"
    if not (is_conversion(target, file.path) and _digest(target) == source_digest(file, chat_template)):
        make_folder(folder)
        convert(file.path, target, model_type=file.family, chat_template=chat_template, report=report)
    return target


def _digest(path: Path) -> str | None:
    try:
        digest: str | None = read_gguf(path).get(SOURCE_DIGEST)
    except ModelFileError:
        return None  # damaged, or another file of that name
    return digest
