"""The file names of split models, as written by `llama-gguf-split`."""

import re

_PART = re.compile(r"-(\d{5})-of-(\d{5})(?=\.gguf$)")


def part_names(name: str) -> list[str]:
    """Return the names of all parts of the model that `name` belongs to; [name] if it is not a part's name."""
    match = _PART.search(name)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        return [name]
    start, count = name[: match.start()], match[2]
    return [f"{start}-{number:05d}-of-{count}.gguf" for number in range(1, int(count) + 1)]


def without_part(name: str) -> str:
    """Return the name that the file would have if the model were not split."""
    return _PART.sub("", name)
