"""The vocabulary of chats that all layers share: tools and their calls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Variables of a chat template that `render` sets.
SET_VARIABLES = frozenset(("messages", "tools", "add_generation_prompt", "bos_token", "eos_token"))


@dataclass(frozen=True, slots=True)
class Tools:
    """The functions that the answer of a chat may call."""

    functions: tuple[Mapping[str, Any], ...]  # OpenAI's tool objects
    required: bool = False  # the answer must call a function
    parallel: bool = True  # the answer may call several functions


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call: `id` and `name` come once, `arguments` is JSON text in pieces."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """The documents that an answer may quote."""

    text: str
    title: str | None = None


MOST_QUOTED = 200_000  # bytes of all documents of a request
LEAST_QUOTED = 8  # characters of a quotation


def documents_problem(documents: Sequence[Document]) -> str | None:
    """Return the reason why no answer can quote these documents, as the end of a sentence; None if one can."""
    if not any(len(document.text) >= LEAST_QUOTED for document in documents):
        return f"must hold a document of at least {LEAST_QUOTED} characters"
    size = sum(len(document.text.encode()) for document in documents)
    return f"have {size} bytes together, and {MOST_QUOTED} are the most" if size > MOST_QUOTED else None
