"""Writes docs/settings.md from the code: `python docs/make_settings.py`. A test fails when the page is stale."""

from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from ggserve.settings import Settings

PAGE = Path(__file__).with_name("settings.md")
_HEAD = """\
# Settings

```sh
CONTEXT_LENGTH=8192 ggserve model.gguf
ggserve model.gguf --context-length 8192    # the same
```

Set a variable in the environment or in a file `.env`, or pass it on the command line: `CONTEXT_LENGTH=8192` is
`--context-length 8192`. The command line takes precedence over the environment, and the environment over `.env`.
`ggserve serve --help` prints this list.

| variable | default | description |
| --- | --- | --- |
"""
_TAIL = """
The Hugging Face client reads `HF_TOKEN`, `HF_HOME` and its other variables from the environment, not from `.env`.
"""


def page() -> str:
    """Return the page's Markdown."""
    return _HEAD + "".join(_row(name, field) for name, field in Settings.model_fields.items()) + _TAIL


def _row(name: str, field: FieldInfo) -> str:
    default = "" if field.default in (None, ()) else f"`{_text(field.default)}`"
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    description = f"{field.description}: {', '.join(f'`{each}`' for each in choices)}" if choices else field.description
    return f"| `{name.upper()}` | {default} | {description} |\n"


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    PAGE.write_text(page())
