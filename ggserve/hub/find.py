"""Finds the model file: a path, a name in a folder, or a name in a hub repository."""

import re
from pathlib import Path

from ggserve.errors import ModelFileError
from ggserve.hub.pick import SUFFIXES, choose
from ggserve.modelfile.split_files import part_names

_REPOSITORY = re.compile(r"[^/\\:@~.][^/\\:@]*/[^/\\:@]+(@[^:]+)?(:[^:/\\]+)?")


def find_model_file(name: str | Path, file: str | None = None) -> Path:
    """Return the model file that `name` (a file, a folder, or a hub repository) and `file` (a file in it) mean.

    A repository is written `org/name`, `org/name@revision` or `org/name:quantization`. It is looked for only if `name`
    is a string and no file or folder has that name. Its file is downloaded unless it is in the cache. Raises
    ModelFileError if there is no such file, or several to choose from.
    """
    path = Path(name).expanduser()
    if path.is_file():
        if file and path.name != file:
            raise ModelFileError(f"{path} is a file, so there is no {file} in it")
        return path.with_name(part_names(path.name)[0])
    if path.is_dir():
        sizes: dict[str, int] = {}
        for folder in {Path(), Path(file or "").parent}:  # also a file in a subfolder
            files = [entry for entry in (path / folder).glob("*") if entry.is_file()]
            sizes |= {(folder / entry.name).as_posix(): entry.stat().st_size for entry in files}
        return path / choose(sizes, file, str(path))
    if isinstance(name, Path):
        raise ModelFileError(f"there is no file or folder {path}")
    if not _REPOSITORY.fullmatch(name) or name.lower().endswith(SUFFIXES):
        raise ModelFileError(f"there is no file or folder {name}; a hub repository is written org/name")
    from ggserve.hub.hub import download  # its library takes 0.4 s to import

    repository, _, quantization = name.partition(":")
    return download(repository, file or quantization or None)
