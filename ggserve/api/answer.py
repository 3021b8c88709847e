"""One answer, assembled from its deltas into a sequence of blocks: reasoning, text and tool calls."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pydantic_core import from_json

from ggserve.generation import Citation, Delta, ScoredToken
from ggserve.messages import ToolCallDelta

Kind = Literal["reasoning", "text", "call"]


@dataclass
class Block:
    """A part of an answer of one kind."""

    kind: Kind
    index: int  # position in the answer
    number: int | None = None  # index among the tool calls, or among the quotations
    citation: Citation | None = None  # for a quotation
    id: str = ""  # for a tool call, with the function's name
    name: str = ""
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text so far; for a tool call, its arguments as JSON."""
        return "".join(self.pieces)

    @property
    def arguments(self) -> dict[str, Any]:
        """A tool call's arguments, parsed; as far as they came if the answer ended inside them."""
        try:
            arguments = from_json(self.text, allow_partial="trailing-strings")
        except ValueError:
            return {}
        return arguments if isinstance(arguments, dict) else {}


class Step(NamedTuple):
    """A change to a block."""

    what: Literal["start", "piece", "cite", "end"]
    block: Block
    piece: str = ""


class Answer:
    """One answer so far. A block ends where the next one begins, or with the answer."""

    def __init__(self, index: int = 0) -> None:
        self.index = index  # in the request
        self.blocks: list[Block] = []
        self.prompt: tuple[ScoredToken, ...] = ()  # the prompt's tokens, if requested
        self.prompt_ids: tuple[int, ...] = ()  # the prompt's token ids, if the engine knows them
        self.reasoning_tokens = 0  # completion tokens up to the end of the reasoning
        self.last = Delta("", 0, 0, 0)  # the latest delta, with the counts and finally the finish reason
        self.first_at = 0.0  # time.perf_counter() of the first delta; 0: none yet
        self._logprob, self._scored = 0.0, 0  # sum of its tokens' log-probabilities, and their number
        self._open: Block | None = None

    def add(self, delta: Delta) -> list[Step]:
        """Add the next delta and return the changes that it makes."""
        self.first_at = self.first_at or time.perf_counter()
        self.last = delta
        for token in delta.tokens:
            self._logprob += token.logprob or 0.0
            self._scored += token.logprob is not None
        if delta.reasoning:
            self.reasoning_tokens = delta.completion_tokens
        return list(self._steps(delta))

    @property
    def text(self) -> str:
        """The text, without reasoning and tool calls."""
        return self._joined("text")

    @property
    def reasoning(self) -> str:
        """The reasoning."""
        return self._joined("reasoning")

    @property
    def calls(self) -> list[Block]:
        """The tool calls."""
        return [block for block in self.blocks if block.kind == "call"]

    @property
    def citations(self) -> list[tuple[int, Citation]]:
        """The citations, each with the position of its quotation in the text."""
        found, place = [], 0
        for block in self.blocks:
            if block.citation:
                found.append((place, block.citation))
            place += len(block.text) * (block.kind == "text")
        return found

    @property
    def likelihood(self) -> float:
        """The mean log-probability of its tokens, which ranks answers for `best_of`."""
        return self._logprob / self._scored if self._scored else 0.0

    def _joined(self, kind: Kind) -> str:
        return "".join(piece for block in self.blocks if block.kind == kind for piece in block.pieces)

    def _steps(self, delta: Delta) -> Iterator[Step]:
        if delta.reasoning:
            yield from self._piece("reasoning", delta.reasoning)
        if delta.text:
            yield from self._piece("text", delta.text, number=delta.quotation)
        if delta.citation and self._open and self._open.number == delta.quotation:
            self._open.citation = delta.citation
            yield Step("cite", self._open)
        for call in delta.tool_calls:
            yield from self._piece("call", call.arguments, call, number=call.index)
        if delta.finish_reason and self._open:
            yield Step("end", self._open)

    def _piece(
        self, kind: Kind, text: str, call: ToolCallDelta | None = None, *, number: int | None = None
    ) -> Iterator[Step]:
        if self._open is None or (self._open.kind, self._open.number) != (kind, number):
            if self._open:
                yield Step("end", self._open)
            self._open = Block(kind, len(self.blocks), number)
            if call:
                self._open.id, self._open.name = call.id or "", call.name or ""
            self.blocks.append(self._open)
            yield Step("start", self._open)
        if text:
            self._open.pieces.append(text)
            yield Step("piece", self._open, text)
