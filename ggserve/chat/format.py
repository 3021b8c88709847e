"""The format in which a model writes an answer: its thought, text and tool calls, as the literals between them.

An answer is, in this order,

    thought?  (text_open text text_close)?  (after_text calls)?
    thought:  open THOUGHT close       (THOUGHT close, where the prompt has opened it)
    calls:    first NAME after_name ARGUMENTS (next NAME after_name ARGUMENTS)* last

Literals are exactly what the chat template writes. A parser takes white space at their edges, and around JSON's
punctuation, as optional.
A literal may have holes: ID (an id of a call), INDEX (the number of a call, from 0) and NAME (the function's, again).

`reading` makes a ChatFormat from a chat template; `parser` reads answers with it; a grammar of answers follows from it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

# Unicode noncharacters stand for the variable parts.
ID = "\ufdd0"
INDEX = "\ufdd1"
NAME = "\ufdd2"
_HOLES = {ID: "⟨id⟩", INDEX: "⟨index⟩", NAME: "⟨name⟩"}

# The field from which a template takes the thought of a message. "parts": a content part of type "thinking"; "content":
# the text, with its own tags around it; "none": none, the template drops thoughts.
ThoughtField = Literal["reasoning_content", "reasoning", "thinking", "parts", "content", "none"]
ThoughtState = Literal["open", "closed", "free"]
# What a template rejects or drops: system messages, system messages after the first message, consecutive messages of
# one role, several calls in one message, text beside calls, null as the text beside calls.
Refusal = Literal["system", "late_system", "repeated_roles", "parallel_calls", "text_with_calls", "null_content"]


@dataclass(frozen=True, kw_only=True)
class ThoughtFormat:
    """`open THOUGHT close` before an answer: Qwen 3 has `<think>\\n` and `\\n</think>\\n\\n`."""

    open: str
    close: str
    close_to_call: str | None = None  # in place of `close` if a call follows without text; None: the same
    none: str = ""  # what a history has in place of a thought, and a model may write: `<think>\n\n</think>\n\n`
    message_field: ThoughtField = "reasoning_content"
    on: Mapping[str, Any] | None = None  # template variables that let the model think; None: none needed
    # template variables that keep it from thinking; None: the template has no such switch
    off: Mapping[str, Any] | None = None
    calls_close: bool = False  # a call inside a thought ends it; otherwise it is part of the thought
    reopens: bool = False  # a thought may begin anywhere in the answer

    def state(self, prompt: str) -> ThoughtState:
        """The state in which a rendered prompt leaves the model: inside a thought, after one, or free to begin one."""
        end = prompt.rstrip()
        if self.open.strip() and end.endswith(self.open.strip()):
            return "open"
        closed = tuple(text for text in (self.none.strip(), self.close.strip()) if text)
        return "closed" if closed and end.endswith(closed) else "free"


@dataclass(frozen=True, kw_only=True)
class ArgumentsFormat:
    """The arguments of a call. In the syntax

    - `json` they are one JSON object;
    - `parameters` each has its name: `open KEY after_key VALUE (between KEY after_key VALUE)* close`, or `empty` where
      there are none. Strings stand between `quote`s (escaped as in JSON), raw where `quote` is ""; raw ones end where
      `between` or `close` begins. Other values are JSON, or Python's True, False and None;
    - `gemma` and `minimax` values are nested in syntaxes of their own: see `gemma` and `minimax`.
    """

    syntax: Literal["json", "parameters", "gemma", "minimax"] = "json"
    open: str = ""
    after_key: str = ""
    after_key_other: str | None = None  # in place of `after_key` before values that are not strings; None: the same
    between: str = ""
    close: str = ""
    empty: str = ""
    quote: str = ""
    cdata: bool = False  # raw strings may be in <![CDATA[...]]>


@dataclass(frozen=True, kw_only=True)
class CallsFormat:
    """Tool calls: `first NAME after_name ARGUMENTS (next NAME after_name ARGUMENTS)* last`."""

    first: str
    after_name: str
    last: str
    next: str | None = None  # None: an answer has at most one call
    arguments: ArgumentsFormat = ArgumentsFormat()
    after_text: str = ""  # between the answer's text and `first`
    others: tuple[tuple[str, str], ...] = ()  # other pairs of `first` and `after_name` that the model also writes
    id_form: Literal["any", "mistral", "kimi"] = "any"  # nine alphanumerics; `functions.NAME:INDEX`
    string_arguments: bool = False  # the template takes arguments of earlier calls only as JSON text


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """The form of a model's answers, and of the messages that its template takes."""

    answer_open: str = ""  # the generation prompt
    # the text that a template writes after an answer; in fact, end tokens of the vocabulary end it
    ends: tuple[str, ...] = ()
    text_open: str = ""  # literal before the text of an answer without a thought
    text_close: str = ""
    dropped: tuple[str, ...] = ()  # further literals that a model writes, without a meaning
    thought: ThoughtFormat | None = None
    calls: CallsFormat | None = None  # None: the template writes no readable calls
    calls_as_text: bool = False  # the template writes no earlier calls: they are part of the content
    content: Literal["string", "parts"] = "string"  # the form of a message's content that the template reads
    refused: frozenset[Refusal] = frozenset()

    @property
    def is_plain(self) -> bool:
        """Return whether an answer that cannot call is all text."""
        return not (self.thought or self.text_open or self.text_close or self.dropped)

    def literals(self) -> Iterator[str]:
        """All literals that a model writes between its thought, text, names and values."""
        yield from (self.text_open, self.text_close, *self.dropped)
        if thought := self.thought:
            yield from (thought.open, thought.close, thought.close_to_call or "", thought.none)
        if calls := self.calls:
            form = calls.arguments
            yield from (calls.first, calls.after_name, calls.last, calls.next or "", calls.after_text)
            yield from (literal for pair in calls.others for literal in pair)
            yield from (form.open, form.after_key, form.after_key_other or "", form.between, form.close, form.empty)
            yield form.quote


def shown(literal: str) -> str:
    """Format a literal for people, with its holes named."""
    for hole, name in _HOLES.items():
        literal = literal.replace(hole, name)
    return literal
