"""The files of a model in a folder, or in a hub's cache inside it: deletion, and second names."""

from pathlib import Path

from ggserve.errors import ModelFileError
from ggserve.links import link
from ggserve.modelfile.split_files import part_names


def remove(path: Path) -> None:
    """Delete a model's files; in a hub's cache also their content, if nothing else links to it. Raises
    ModelFileError."""
    try:
        for name in part_names(path.name):
            part = path.with_name(name)
            blob = part.resolve() if part.is_symlink() else None
            part.unlink(missing_ok=True)
            if blob and blob.parent.name == "blobs" and not _is_linked(blob):
                blob.unlink(missing_ok=True)
    except OSError as error:
        raise ModelFileError(f"{path.name} cannot be deleted: {error.strerror or error}") from error


def copy(path: Path, folder: Path, name: str) -> Path:
    """Give a model a second name in `folder`. Raises ModelFileError."""
    target = folder / f"{name}{path.suffix}"
    sources = [path.with_name(part).resolve() for part in part_names(path.name)]
    start = target.name.removesuffix(target.suffix)
    targets = [target]
    if len(sources) > 1:
        count = len(sources)
        targets = [target.with_name(f"{start}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]
    if any(each.exists() for each in targets):
        raise ModelFileError(f"a model {name} already exists: delete it first")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for source, each in zip(sources, targets, strict=True):
            link(source, each)
    except OSError as error:
        raise ModelFileError(f"{path.name} cannot be copied to {name}: {error.strerror or error}") from error
    return targets[0]


def _is_linked(blob: Path) -> bool:
    links = (each for each in (blob.parent.parent / "snapshots").rglob("*") if each.is_symlink())
    return any(each.resolve() == blob for each in links)
