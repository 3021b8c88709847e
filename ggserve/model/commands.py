"""`ggserve pull` and `ggserve list`: models from a hub, in MODELS_DIR or in the hub library's cache."""

import sys
from pathlib import Path

from huggingface_hub import constants

from ggserve.errors import ModelFileError
from ggserve.hub.pick import human_size
from ggserve.model.catalog import Catalog
from ggserve.model.manage import Progress, fetch
from ggserve.settings import SettingsError, load_settings


def main_pull(arguments: list[str]) -> int:
    """`ggserve pull ORG/NAME[:QUANTIZATION]`."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: ggserve pull ORG/NAME[:QUANTIZATION]", file=sys.stderr)
        return 2
    shown = sys.stderr.isatty()

    def watch(progress: Progress) -> None:
        if shown:
            percent = 100 * progress.completed // max(1, progress.total)
            print(f"\r{progress.file}: {percent} % of {human_size(progress.total)}", end="", file=sys.stderr)

    try:
        path = fetch(arguments[0], _local_folder(), watch)
    except (ModelFileError, SettingsError) as error:
        print(f"ggserve: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nggserve: stopped; the next pull continues here", file=sys.stderr)
        return 130
    if shown:
        print(file=sys.stderr)
    print(path)
    return 0


def main_list(arguments: list[str]) -> int:
    """`ggserve list`: the models in MODELS_DIR, or in the cache of the hub library."""
    if arguments:
        print("usage: ggserve list", file=sys.stderr)
        return 2
    try:
        models = Catalog(_local_folder() or Path(constants.HF_HUB_CACHE)).models()
    except (ModelFileError, SettingsError) as error:
        print(f"ggserve: {error}", file=sys.stderr)
        return 2
    width = max((len(model.name) for model in models), default=0)
    for model in models:
        print(f"{model.name:{width}}  {human_size(model.size):>10}  {model.kind}")
    return 0


def _local_folder() -> Path | None:
    return load_settings().models_dir
