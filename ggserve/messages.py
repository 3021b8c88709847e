"""The vocabulary of chats that all layers share: tools, tool calls and documents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# The chat template variables that `render` sets.
SET_VARIABLES = frozenset(("messages", "tools", "add_generation_prompt", "bos_token", "eos_token"))


@dataclass(frozen=True, slots=True)
class Tools:
    """The functions that a chat's answer may call."""

    functions: tuple[Mapping[str, Any], ...]  # OpenAI's tool objects
    required: bool = False  # the answer must call at least one
    parallel: bool = True  # the answer may call several


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call. `id` and `name` are set once; `arguments` is JSON text in pieces."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A document that an answer can quote."""

    text: str
    title: str | None = None


MOST_QUOTED = 200_000  # bytes of all documents of a request
LEAST_QUOTED = 8  # characters of a quotation


def documents_problem(documents: Sequence[Document]) -> str | None:
    """Return why these documents cannot be quoted, as the end of a sentence, or None if they can."""
    if not any(len(document.text) >= LEAST_QUOTED for document in documents):
        return f"must contain a document of at least {LEAST_QUOTED} characters"
    size = sum(len(document.text.encode()) for document in documents)
    return f"have {size} bytes in total; the limit is {MOST_QUOTED}" if size > MOST_QUOTED else None
