"""Which of many files is the model: in a folder or a repository, by name and size alone."""

import re
from collections.abc import Mapping

from modelfile.errors import ModelFileError

SUFFIXES = (".gguf", ".ggml", ".bin")

# Files that share those suffixes: PyTorch's, and GGUF files that go along with a model.
_OTHERS = re.compile(
    r"(^|[-_.])(pytorch_model|adapter_model|training_args|optimizer|scheduler|consolidated|mmproj|imatrix)", re.I
)
_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.I)


def choose(sizes: Mapping[str, int], wanted: str | None, where: str) -> str:
    """The name of the model file: `wanted`, else the only one among `sizes` (bytes, by name).

    Raises ModelFileError that lists what there is `where`, when that is none or several.
    """
    if wanted:
        if wanted not in sizes:
            raise ModelFileError(f"there is no file {wanted} in {where}; {_listing(sizes)}")
        if _PART.search(wanted):
            raise _split(wanted, where)
        if not _is_model(wanted):
            raise ModelFileError(f"{wanted} in {where} is not a model file by its name; {_listing(sizes)}")
        return wanted
    candidates = whole_models(sizes)
    if len(candidates) == 1:
        return candidates[0]
    if not candidates and (parts := [name for name in sizes if _is_model(name)]):
        raise _split(min(parts), where)
    if not candidates:
        raise ModelFileError(f"{where} has no model files ({', '.join(SUFFIXES)})")
    raise ModelFileError(f"choose one of the files in {where} with MODEL_FILE; {_listing(sizes)}")


def whole_models(sizes: Mapping[str, int]) -> list[str]:
    """The model files that are not parts of a split one, smallest first."""
    names = (name for name in sizes if _is_model(name) and not _PART.search(name))
    return sorted(names, key=lambda name: (sizes[name], name))


def human_size(nbytes: int) -> str:
    """Bytes as people and hubs write them, in powers of 1000."""
    size, unit = float(nbytes), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} B" if unit == "B" else f"{size:.2f} {unit}"


def _is_model(name: str) -> bool:
    base = name.rpartition("/")[2]
    return base.lower().endswith(SUFFIXES) and not base.startswith(".") and not _OTHERS.search(base)


def _split(part: str, where: str) -> ModelFileError:
    count = int(match[1]) if (match := _PART.search(part)) else 0
    return ModelFileError(
        f"{part} in {where} is one of {count} parts of a split file, which is not served: "
        "join them with `llama-gguf-split --merge`, or choose a whole file"
    )


def _listing(sizes: Mapping[str, int]) -> str:
    files = [f"{name} ({human_size(sizes[name])})" for name in whole_models(sizes)]
    return f"it has {', '.join(files)}" if files else f"it has no model files ({', '.join(SUFFIXES)})"
