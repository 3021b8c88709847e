"""How a model writes calls of functions: what a format consists of, and the grammar of calls that follows from it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_NAMED_OBJECT = re.compile(
    r'\s*\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"(?P<name>[^"\\]*)"\s*,\s*'
    r'"(?:arguments|parameters)"\s*:\s*(?=\{)'
)


@dataclass(frozen=True, kw_only=True)
class CallFormat:
    """A call is `opening`, something with the function's name, its arguments as JSON, and `closing`; or all calls are a
    JSON list after one `opening`."""

    opening: str  # "": an answer that begins with a call consists of calls
    closing: str = ""
    before_name: str
    after_name: str
    after_arguments: str = ""
    between: str = ""  # two calls
    head: re.Pattern[str] = field(default=_NAMED_OBJECT)  # what comes between `opening` and the arguments
    wrapped: bool = True  # the arguments are in an object with the name
    listed: bool = False  # one `opening`, and a list
    controls: tuple[str, ...] = ()  # control tokens that calls are written with

    def grammar(
        self, arguments: Mapping[str, str], *, required: bool, parallel: bool, instead: str | None = None
    ) -> str:
        """Lark of an answer that calls some of these functions: by name, the rule of the arguments. Unless calls are
        `required`, they may come after text, or not at all; with `instead`, a rule, that comes where no calls do."""
        quoted = _json_quoted if instead and not self.opening else _quoted
        rules = [
            f"call_{number}: {quoted(self.before_name + name + self.after_name)} {rule} "
            f"{_quoted(self.after_arguments + self.closing)}"
            for number, (name, rule) in enumerate(arguments.items())
        ]
        lines = [*rules, f"call: {' | '.join(f'call_{number}' for number in range(len(arguments)))}"]
        opening = f"{_quoted(self.opening)} " if self.opening else ""
        next_call = f"{_quoted(self.between)} " if self.between else ""
        if self.listed:
            more = f" ({next_call}call)*" if parallel else ""
            lines.append(f'list: " "? "[" call{more} "]"')
            lines.append(f"calls: {opening}list")
        elif required or instead or not self.opening:
            more = f" ({next_call}{opening}call)*" if parallel else ""
            lines.append(f"calls: {opening}call{more}")
        if required:
            return "\n".join(["start: calls", *lines])
        if instead:
            return "\n".join(["start: calls | instead", f"instead: {instead}", *lines])
        if not self.opening:
            text = rf"TEXT: /(.|\n)*/ & ~/{re.escape(self.before_name)}(.|\n)*/"
            return "\n".join(["start: calls | TEXT", text, *lines])
        text = r"TEXT: /(.|\n)*/"
        start = "start: called* TEXT" if parallel and not self.listed else "start: called | TEXT"
        called = f"called: head {'list' if self.listed else 'call'}"
        return "\n".join([start, called, f"head[lazy]: TEXT {_quoted(self.opening)}", text, *lines])


def _json_quoted(text: str) -> str:
    """JSON in the pieces that llguidance reads JSON in, so that it can tell apart later what begins alike."""
    return " ".join(map(_quoted, re.findall(r'"[^"]*"|[{}]|[:,] ', text)))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""
