"""The public chat templates, if they are beside the checkout."""

from functools import cache
from pathlib import Path

from ggserve.chat.format import ChatFormat
from ggserve.chat.reading import read_format
from ggserve.chat.template import ChatTemplate

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "templates"
NAMES = sorted(path.stem for path in FOLDER.glob("*.jinja"))


@cache
def template(name: str) -> ChatTemplate:
    return ChatTemplate((FOLDER / f"{name}.jinja").read_text(), "<s>", "</s>")


@cache
def form(name: str) -> ChatFormat:
    return read_format(template(name), seconds=20)  # the machine may be busy
