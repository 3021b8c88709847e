"""How a model writes calls of functions: what a format consists of."""

import re
from dataclasses import dataclass, field

from ggserve.chat.format import CallsFormat

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

    @property
    def calls(self) -> CallsFormat:
        """The same as a chat format has it."""
        bracket = ("[", "]") if self.listed else ("", "")
        opening = "" if self.listed else self.opening
        return CallsFormat(
            first=f"{self.opening}{bracket[0]}{self.before_name}",
            after_name=self.after_name,
            last=f"{self.after_arguments}{self.closing}{bracket[1]}",
            next=f"{self.after_arguments}{self.closing}{self.between}{opening}{self.before_name}",
        )
