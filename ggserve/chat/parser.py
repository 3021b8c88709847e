"""Separates thought, text and tool calls in an answer that arrives in pieces, by the model's chat format.

Text that only looks like a call stays text; a call inside a thought is thought. Any split of an answer gives the same
parts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ggserve.chat.arguments import arguments_reader
from ggserve.chat.call_heads import CallHead, CallHeads
from ggserve.chat.format import ChatFormat, ThoughtState
from ggserve.chat.literals import MORE, Pattern, earliest, first_characters, skip_space


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    text: str


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of a call: its name comes first and once, its arguments are JSON text in pieces."""

    index: int
    arguments: str = ""
    name: str | None = None


Part = Text | Thought | CallPiece


class AnswerParser:
    """Reads one answer. Each `_read_...` takes what is certain from `_held`, and returns whether to continue at
    once."""

    def __init__(
        self, form: ChatFormat, schemas: Mapping[str, Mapping[str, Any]], state: ThoughtState | None = "free"
    ) -> None:
        """`schemas`: those of the functions that the answer may call, by name. `state`: the state in which the prompt
        leaves the model; None: in the middle of its text."""
        self._schemas = schemas
        self._thought = thought = form.thought
        self._calls = CallHeads(form.calls, schemas) if form.calls and schemas else None
        self._open = Pattern(thought.open if thought else "")
        closings = {thought.close.strip(), (thought.close_to_call or thought.close).strip()} if thought else set()
        self._closings = [Pattern(text) for text in sorted(closings, key=len, reverse=True) if text]
        self._dropped = [Pattern(text) for text in (form.text_open, form.text_close, *form.dropped) if text.strip()]
        self._stops = [
            *self._dropped,
            *([self._open] if thought and thought.reopens else []),
            *(self._calls.openings if self._calls else []),
        ]
        self._stop_begins = first_characters(self._stops)
        self._held = ""
        self._made = 0  # number of calls
        self._read = {"open": self._read_thought, None: self._read_text}.get(state, self._read_start)
        self._drops_space = state == "open"  # white space at the beginning of the next part
        self._final = False

    def push(self, text: str) -> list[Part]:
        """Take the next piece and return the parts that are certain."""
        self._held += text
        parts: list[Part] = []
        while self._read(parts):
            pass
        return parts

    def finish(self) -> list[Part]:
        """Return the rest when no more text will arrive."""
        self._final = True
        return self.push("")

    def _take(self, length: int) -> str:
        taken, self._held = self._held[:length], self._held[length:]
        return taken

    def _skip_space(self) -> bool:
        """Drop meaningless white space, and return whether anything is left."""
        if self._drops_space:
            self._take(skip_space(self._held))
            self._drops_space = not self._held
        return bool(self._held)

    def _read_start(self, parts: list[Part]) -> bool:
        """Read the beginning of an answer: a thought, calls without an opening literal, or text."""
        self._skip_space()
        at = skip_space(self._held)
        undecided = at == len(self._held)
        for pattern in (self._open, *self._dropped):
            end = pattern.match(self._held, at) if pattern else None
            if end == MORE:
                undecided = True
            elif end is not None:
                self._take(end)
                self._drops_space = True
                if pattern is self._open:
                    self._read = self._read_thought
                return True
        if self._calls and self._calls.at_start:
            head = self._calls.read(self._held, at, final=self._final, at_start=True)
            if isinstance(head, CallHead):
                return self._begin(head, parts)
            undecided |= head == MORE
        if undecided and not self._final:
            return False
        self._read = self._read_text
        return True

    def _read_thought(self, parts: list[Part]) -> bool:
        if not self._skip_space():
            return False
        found = earliest(self._held, self._closings, final=self._final)
        call = self._next_call() if self._thought and self._thought.calls_close else None
        if call and (found is None or call[0] < found[0]):
            self._say(call[0], parts, thinks=True)
            if not isinstance(call[1], CallHead):
                return False
            self._read = self._read_text
            return True
        if found is None or found[1] == MORE:
            self._say(found[0] if found else len(self._held), parts, thinks=True)
            self._held = "" if self._final else self._held
            return False
        kept = self._say(found[0], parts, thinks=True)
        self._take(found[1] - kept)
        self._drops_space, self._read = True, self._read_start
        return True

    def _read_text(self, parts: list[Part]) -> bool:
        """Read text, up to a call or to a meaningless literal."""
        if not self._skip_space():
            return False
        if not self._stops:
            parts.append(Text(self._take(len(self._held))))
            return False
        searched = 0
        stops = self._stops if self._stop_begins.search(self._held) else ()
        while found := earliest(self._held, stops, searched, final=self._final):
            begin, end, pattern = found
            head: CallHead | int | None = None
            if self._calls and pattern in self._calls.openings:
                head = self._calls.read(self._held, begin, final=self._final)
                if head is None:
                    searched = begin + 1
                    continue
            if MORE in (end, head):
                self._say(begin, parts)
                return False
            kept = self._say(begin, parts, drops_space=True)
            if isinstance(head, CallHead):
                return self._begin(head.moved(-kept), parts)
            self._take(end - kept)
            self._drops_space = True
            if pattern is self._open:
                self._read = self._read_thought
            return True
        self._say(len(self._held), parts)
        if self._final and self._held:
            if not self._made:
                parts.append(Text(self._held))
            self._held = ""
        return False

    def _next_call(self) -> tuple[int, CallHead | int] | None:
        """Return where the first call begins, and its head, or MORE."""
        searched = 0
        while self._calls and (found := earliest(self._held, self._calls.openings, searched, final=self._final)):
            head = self._calls.read(self._held, found[0], final=self._final)
            if head is not None:
                return found[0], head
            searched = found[0] + 1
        return None

    def _say(self, end: int, parts: list[Part], *, thinks: bool = False, drops_space: bool = False) -> int:
        """Pass on the held text up to `end`, except white space there, which may be meaningless; return the number of
        characters removed from the beginning."""
        text = self._held[:end].rstrip()
        if text:
            parts.append(Thought(text) if thinks else Text(text))
        gone = end if drops_space else len(text)
        self._take(gone)
        return gone

    def _begin(self, head: CallHead, parts: list[Part]) -> bool:
        """Start a call."""
        assert self._calls is not None
        self._take(head.end)
        parts.append(CallPiece(self._made, head.arguments or "", head.name))
        if head.arguments is not None:
            self._made += 1
            self._read = self._read_tail
            return True
        schema = self._schemas.get(head.name)
        self._arguments = arguments_reader(self._calls.form.arguments, self._calls.ends, schema)
        self._read = self._read_arguments
        return True

    def _read_arguments(self, parts: list[Part]) -> bool:
        piece, taken, complete = self._arguments.read(self._held, final=self._final)
        self._take(taken)
        if piece:
            parts.append(CallPiece(self._made, piece))
        if complete:
            self._made += 1
            self._read = self._read_closing if self._calls and self._calls.wrapped else self._read_tail
        return complete

    def _read_closing(self, parts: list[Part]) -> bool:
        """Read the rest of the object that contains the arguments."""
        brace = self._held.find("}")
        if brace < 0:
            self._held = "" if self._final else self._held
            return False
        self._take(brace + 1)
        self._read = self._read_tail
        return True

    def _read_tail(self, parts: list[Part]) -> bool:
        """Read the literal after a call. Some models leave it out."""
        assert self._calls is not None
        at = skip_space(self._held)
        if self._calls.next:
            end = self._calls.next.match(self._held, at)
            if end == MORE and not self._final:
                return False
            if end not in (None, MORE):
                self._take(end or 0)
                self._read = self._read_name
                return True
        if self._calls.last:
            if self._calls.last.match(self._held, at) == MORE and not self._final:
                return False
            at = self._calls.last.matched(self._held, at)
        self._take(at)
        if self._calls.at_start:
            if not self._held and not self._final:
                return False
            if self._held.startswith((";", ",")):
                self._take(1)
            self._read = self._read_start
        else:
            self._read = self._read_text
        self._drops_space = True
        return True

    def _read_name(self, parts: list[Part]) -> bool:
        """Read the name of a further call."""
        assert self._calls is not None
        head = self._calls.read_name(self._held, skip_space(self._held), final=self._final)
        if isinstance(head, CallHead):
            return self._begin(head, parts)
        if head == MORE and not self._final:
            return False
        self._read = self._read_text
        return True


def whole(form: ChatFormat, text: str, schemas: Mapping[str, Mapping[str, Any]]) -> Sequence[Part]:
    """Return the parts of a whole answer."""
    parser = AnswerParser(form, schemas)
    return [*parser.push(text), *parser.finish()]
