"""The beginnings of tool calls in a text: the literal that opens one, and the name of an existing function."""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from ggserve.chat.arguments import Braces
from ggserve.chat.format import CallsFormat
from ggserve.chat.literals import MORE, Pattern, skip_space

_WORD = re.compile(r"[^\s\[\]{}\"':,]")


@dataclass(frozen=True)
class CallHead:
    """A call of the function `name`. Its arguments begin at `end`, or they are `arguments`, JSON, which ends there."""

    name: str
    end: int
    arguments: str | None = None

    def moved(self, by: int) -> "CallHead":
        """Return the same head in a text that begins elsewhere."""
        return replace(self, end=self.end + by)


class CallHeads:
    """Finds the heads of one format and some functions. `at_start`: only a name or JSON opens calls, so only an answer
    that begins with one has any. `wrapped`: the arguments are in a JSON object with the name."""

    def __init__(self, form: CallsFormat, names: Collection[str]) -> None:
        self.form = form
        self._names = names
        pairs = [(form.first, form.after_name), *form.others]
        self.wrapped = form.arguments.syntax == "json" and "{" in form.first
        self._first = [(Pattern(_opening(first)), Pattern(first), Pattern(after)) for first, after in pairs]
        self.at_start = not _WORD.search(_opening(form.first))
        self.openings = [opening for opening, _, _ in self._first if _WORD.search(opening.text)]
        after_brace = [text.partition("}")[2] if self.wrapped else text for text in (form.next or "", form.last)]
        following, last = map(str.strip, after_brace)
        # In text, the first call is also recognized after `last`. Only a further call that begins differently is
        # distinguished here.
        self.last = Pattern(last)
        reduces = not self.at_start and following.replace(last, "", 1).strip() == form.first.strip()
        self.next = Pattern("" if form.next is None or (following.startswith(last) and reduces) else following)
        self.ends = [pattern for text in (form.next, form.last) if text and (pattern := Pattern(text))]
        self._after_name = Pattern(form.after_name)
        self._braces, self._scanned = Braces(), 0

    def read(self, text: str, at: int, *, final: bool, at_start: bool = False) -> CallHead | int | None:
        """Return the head that begins at `at`, None if none does, or MORE if more text may complete one."""
        undecided = False
        for opening, first, after in self._first:
            if at_start and opening in self.openings:
                continue
            end = first.match(text, at)
            head = (
                self._name(text, skip_space(text, end), after) if end not in (None, MORE) and end is not None else end
            )
            if isinstance(head, CallHead):
                return head
            if head is None and self.wrapped:
                head = self._object(text, opening.match(text, at) if opening else at)
                if isinstance(head, CallHead):
                    return head
            undecided |= head == MORE
        if undecided and not final:
            return MORE
        self._braces, self._scanned = Braces(), 0
        return None

    def read_name(self, text: str, at: int, *, final: bool) -> CallHead | int | None:
        """Return the same after the separator of a further call."""
        head = self._name(text, at, self._after_name)
        return None if final and head == MORE else head

    def _name(self, text: str, at: int, after: Pattern) -> CallHead | int | None:
        undecided = at == len(text)
        for name in sorted(self._names, key=len, reverse=True):
            if text.startswith(name, at):
                behind = at + len(name)
                if after:
                    end = after.match(text, skip_space(text, behind))
                else:  # the next character must not continue the name
                    end = MORE if behind == len(text) else behind if not re.match(r"[\w.-]", text[behind]) else None
                if end is not None and end != MORE and self.form.arguments.syntax == "json":
                    end = skip_space(text, end)
                    end = MORE if end == len(text) else end if text[end] == "{" else None
                if end is not None and end != MORE:
                    return CallHead(name, end)
                undecided |= end == MORE
            elif name.startswith(text[at:]):
                undecided = True
        return MORE if undecided else None

    def _object(self, text: str, at: int | None) -> CallHead | int | None:
        """Read a call whose members come in another order, or with others, once it is complete."""
        if at is None or at == MORE:
            return at
        at = skip_space(text, at)
        if at == len(text):
            return MORE
        if text[at] != "{":
            return None
        end = self._braces.end(text[at + self._scanned :])
        if end is None:
            self._scanned = len(text) - at
            return MORE
        end += at + self._scanned
        self._braces, self._scanned = Braces(), 0
        try:
            call = json.loads(text[at:end])
            arguments = call.get("arguments", call.get("parameters"))
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
            if isinstance(arguments, dict) and call.get("name") in self._names:
                return CallHead(call["name"], end, json.dumps(arguments, ensure_ascii=False))
        except (ValueError, TypeError, AttributeError, RecursionError):
            pass
        return None


def _opening(first: str) -> str:
    """Skip the text before the JSON of a call, or before its name."""
    return first.partition("{")[0] if '"' in first.partition("{")[2] else first
