"""A dialect: one of the APIs that clients use. `app.py` includes four of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.types import Scope

if TYPE_CHECKING:
    from fastapi import APIRouter

    from ggserve.api.errors import APIError

Envelope = Callable[["APIError"], dict[str, Any]]  # returns an error as a dialect's JSON


def route_path(scope: Scope) -> str:
    """Return a request's path as the routes see it, without the prefix that a proxy adds (`--root-path`)."""
    path: str = scope["path"]
    relative = path.removeprefix(scope.get("root_path", ""))
    return relative if relative.startswith("/") else path


@dataclass(frozen=True)
class Dialect:
    """The routes of an API, the prefix of its paths, and its error format."""

    router: "APIRouter"
    prefix: str
    envelope: Envelope


class Envelopes:
    """The error format of each path: the dialect with the longest matching prefix, relative to the server's root
    path."""

    def __init__(self, dialects: Sequence[Dialect]) -> None:
        self._by_prefix = sorted(((each.prefix, each.envelope) for each in dialects), key=lambda each: -len(each[0]))

    def of(self, scope: Scope) -> Envelope:
        """Return the error format for a request, before or after routing."""
        path = route_path(scope).rstrip("/") + "/"
        return next(envelope for prefix, envelope in self._by_prefix if path.startswith(prefix.rstrip("/") + "/"))
