"""The names of the files of a model in several files, as `llama-gguf-split` writes them."""

import re

_PART = re.compile(r"-(\d{5})-of-(\d{5})(?=\.gguf$)")


def part_names(name: str) -> list[str]:
    """Return the names of all files of the model that `name` belongs to: only itself, unless it is named as one of
    several."""
    match = _PART.search(name)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        return [name]
    start, count = name[: match.start()], match[2]
    return [f"{start}-{number:05d}-of-{count}.gguf" for number in range(1, int(count) + 1)]


def without_part(name: str) -> str:
    """Return the name that the file would have if it were the only one."""
    return _PART.sub("", name)
