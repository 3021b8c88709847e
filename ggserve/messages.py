"""The vocabulary of chats that all layers share: tools and their calls."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The variables of a chat template that `render` sets.
SET_VARIABLES = frozenset(("messages", "tools", "add_generation_prompt", "bos_token", "eos_token"))


@dataclass(frozen=True, slots=True)
class Tools:
    """Functions that the answer of a chat may call."""

    functions: tuple[Mapping[str, Any], ...]  # OpenAI's tool objects
    required: bool = False  # the answer must call one
    parallel: bool = True  # it may call several


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a call: `id` and `name` come once, `arguments` is JSON text in pieces."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


def nests_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects of JSON lie within each other more than so many levels deep."""
    level = [value]
    for _ in range(levels + 1):
        level = [child for each in level if isinstance(each, dict | list) for child in _children(each)]
        if not level:
            return False
    return True


def _children(container: dict[str, Any] | list[Any]) -> list[Any]:
    return list(container.values()) if isinstance(container, dict) else container
