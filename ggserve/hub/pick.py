"""Picks the model and its projector among the files of a folder or repository, by name and size alone."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from ggserve.errors import ModelFileError
from ggserve.modelfile.split_files import part_names, without_part

SUFFIXES = (".gguf", ".ggml", ".bin")

# Files that share those suffixes: PyTorch's, and GGUF files that accompany a model.
_OTHERS = re.compile(
    r"(^|[-_.])(pytorch_model|adapter_model|training_args|optimizer|scheduler|consolidated|mmproj|imatrix)", re.I
)

_KIND = re.compile(r"mmproj|model|gguf|i?q\d+|[kf]\d*|[sml]|xs|xxs|xl|nl|ud|[01]|bf16|f16|f32|mxfp4|fp16|fp32")
_PROJECTOR = re.compile(r"mmproj[^/]*\.gguf$", re.I)


def choose(sizes: Mapping[str, int], wanted: str | None, where: str, *, usual: str | None = None) -> str:
    """Return the name of the model file: `wanted`, which may be a quantization ("Q4_K_M"), else the only one among
    `sizes`
    (bytes, by name), else the only one of the quantization `usual`. For a model in several files it is the first.

    Raises ModelFileError, listing what there is `where`, if no file or several fit.
    """
    candidates = models(sizes)
    if wanted and wanted not in sizes:
        wanted = _only(candidates, wanted) or wanted
    if not wanted:
        wanted = next(iter(candidates)) if len(candidates) == 1 else usual and _only(candidates, usual)
    if wanted:
        if wanted not in sizes:
            raise ModelFileError(f"there is no file {wanted} in {where}; {_listing(sizes)}")
        if not _is_model(wanted):
            raise ModelFileError(f"the name of {wanted} in {where} is not that of a model file; {_listing(sizes)}")
        return _whole(wanted, sizes, where)
    if not candidates:
        raise ModelFileError(f"{where} has no model files ({', '.join(SUFFIXES)})")
    raise ModelFileError(f"choose one of the files in {where} with MODEL_FILE; {_listing(sizes)}")


def models(sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the models among files, each by its only or first file, and their bytes; the smallest first."""
    found = Counter[str]()
    for name in filter(_is_model, sizes):
        found[part_names(name)[0]] += sizes[name]
    return dict(sorted(found.items(), key=lambda item: (item[1], item[0])))


def projector(model: str, sizes: Mapping[str, int]) -> str | None:
    """Return the projector that belongs to a model, by the paths of both: the nearest one, in its folder or above. Of
    several in one folder it is the only one in F16, else the smallest."""
    for folder in PurePosixPath(model).parents:
        found = {name: sizes[name] for name in filter(_PROJECTOR.search, sizes) if PurePosixPath(name).parent == folder}
        if found:
            return _only(found, "F16") or min(found, key=lambda name: found[name])
    return None


def is_projector(name: str) -> bool:
    """Return whether a file is a projector by its name."""
    return bool(_PROJECTOR.search(name))


def identity(name: str) -> frozenset[str]:
    """Return the words of a file's name that identify the model: without the quantization and "mmproj"."""
    words = re.split(r"[^a-z0-9]+", without_part(PurePosixPath(name).name).lower().rpartition(".")[0])
    return frozenset(word for word in words if word and not _KIND.fullmatch(word))


def human_size(nbytes: int) -> str:
    """Format bytes as people and hubs write them, in powers of 1000."""
    size, unit = float(nbytes), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} B" if unit == "B" else f"{size:.2f} {unit}"


def _only(names: Iterable[str], quantization: str) -> str | None:
    """Return the only name that contains a quantization, in any case: "llama-2-7b.Q4_K_M.gguf"."""
    pattern = re.compile(rf"(?<![a-z0-9]){re.escape(quantization)}(?=[-.])", re.I)
    found = [name for name in names if pattern.search(name.rpartition("/")[2])]
    return found[0] if len(found) == 1 else None


def _is_model(name: str) -> bool:
    base = name.rpartition("/")[2]
    return base.lower().endswith(SUFFIXES) and not base.startswith(".") and not _OTHERS.search(base)


def _whole(name: str, sizes: Mapping[str, int], where: str) -> str:
    """Return the first file of the model that `name` belongs to. Raises ModelFileError if a part is missing."""
    names = part_names(name)
    for part in names:
        if part not in sizes:
            raise ModelFileError(f"{name} in {where} is one of {len(names)} parts of a model, but {part} is missing")
    return names[0]


def _listing(sizes: Mapping[str, int]) -> str:
    files = [f"{name} ({human_size(size)})" for name, size in models(sizes).items()]
    return f"it has {', '.join(files)}" if files else f"it has no model files ({', '.join(SUFFIXES)})"
