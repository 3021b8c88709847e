"""An answer as blocks, one after another: thoughts, texts, calls. For the dialects whose events open and close them."""

from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from pydantic_core import from_json

from ggserve.api.errors import APIError, api_error
from ggserve.api.streaming import event
from ggserve.generation import Delta
from ggserve.messages import ToolCallDelta


@dataclass
class Block:
    """A stretch of an answer that is all of one kind."""

    kind: Literal["reasoning", "text", "call"]
    index: int  # in the answer
    call: int | None = None  # of a call: its index among the calls, its id and its function
    id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text so far; of a call its arguments, as JSON."""
        return "".join(self.pieces)

    @property
    def arguments(self) -> dict[str, Any]:
        """A call's arguments, parsed; those that the end of the answer cut off as far as they came."""
        try:
            arguments = from_json(self.text, allow_partial="trailing-strings")
        except ValueError:
            return {}
        return arguments if isinstance(arguments, dict) else {}


class Step(NamedTuple):
    """What a delta does to a block."""

    what: Literal["start", "piece", "end"]
    block: Block
    piece: str = ""


class Blocks:
    """Takes the deltas of an answer. A block ends where the next one starts."""

    def __init__(self) -> None:
        self.all: list[Block] = []
        self.reasoning_tokens = 0  # completion tokens up to the end of the thoughts
        self._open: Block | None = None

    def take(self, delta: Delta) -> Iterator[Step]:
        """What the delta starts, goes on with and ends."""
        if delta.reasoning:
            self.reasoning_tokens = delta.completion_tokens
            yield from self._piece("reasoning", delta.reasoning)
        if delta.text:
            yield from self._piece("text", delta.text)
        for call in delta.tool_calls:
            yield from self._piece("call", call.arguments, call)

    def end(self) -> Iterator[Step]:
        """Ends the last block."""
        if self._open:
            yield Step("end", self._open)
        self._open = None

    def _piece(
        self, kind: Literal["reasoning", "text", "call"], text: str, call: ToolCallDelta | None = None
    ) -> Iterator[Step]:
        index = call.index if call else None
        if self._open is None or (self._open.kind, self._open.call) != (kind, index):
            yield from self.end()
            self._open = Block(kind, len(self.all), index)
            if call:
                self._open.id, self._open.name = call.id or "", call.name or ""
            self.all.append(self._open)
            yield Step("start", self._open)
        if text:
            self._open.pieces.append(text)
            yield Step("piece", self._open, text)


class Answer(Protocol):
    """An answer of a dialect in the making: deltas in, events out, each with its `type`."""

    def take(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """The events of a delta."""
        ...

    def end(self) -> Iterator[dict[str, Any]]:
        """The events after the last delta."""
        ...

    def fail(self, error: APIError) -> Iterator[dict[str, Any]]:
        """The events after an error."""
        ...


AnswerT = TypeVar("AnswerT", bound=Answer)


async def whole(deltas: AsyncGenerator[Delta, None], answer: AnswerT) -> AnswerT:
    """The answer once it is complete."""
    async with aclosing(deltas):
        async for delta in deltas:
            deque(answer.take(delta), maxlen=0)
    deque(answer.end(), maxlen=0)
    return answer


async def typed_events(deltas: AsyncGenerator[Delta, None], answer: Answer) -> AsyncGenerator[bytes, None]:
    """The answer's events as they come, each under the name of its type."""
    try:
        async with aclosing(deltas):
            async for delta in deltas:
                for item in answer.take(delta):
                    yield event(item, item["type"])
        last = answer.end()
    except Exception as error:
        last = answer.fail(api_error(error))
    for item in last:
        yield event(item, item["type"])
