"""Where the model file is: from a path, or from a folder and a name in it."""

from pathlib import Path

from modelfile.errors import ModelFileError

SUFFIXES = {".gguf", ".ggml", ".bin"}


def find_model_file(name: str | Path, file: str | None = None) -> Path:
    """The model file that `name` (a file or a folder) and `file` (a file in that folder) mean.

    Raises ModelFileError when there is none, or several to choose from.
    """
    path = Path(name).expanduser()
    if path.is_file():
        if file and path.name != file:
            raise ModelFileError(f"{path} is a file, so there is no {file} in it")
        return path
    if not path.is_dir():
        raise ModelFileError(f"there is no file or folder {path}")
    if file:
        if not (path / file).is_file():
            raise ModelFileError(f"there is no file {file} in {path}; {_listing(path)}")
        return path / file
    candidates = _candidates(path)
    if len(candidates) != 1:
        raise ModelFileError(f"name one file in {path} with MODEL_FILE; {_listing(path)}")
    return candidates[0]


def _candidates(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


def _listing(folder: Path) -> str:
    files = [f"{path.name} ({path.stat().st_size / 1e9:.2f} GB)" for path in _candidates(folder)]
    return f"it has {', '.join(files)}" if files else "it has no model files (.gguf, .ggml, .bin)"
