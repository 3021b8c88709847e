"""How one model writes an answer: its thought, its text and its tool calls, as the literals between them.

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

# Unicode noncharacters stand for what varies.
ID = "\ufdd0"
INDEX = "\ufdd1"
NAME = "\ufdd2"
_HOLES = {ID: "⟨id⟩", INDEX: "⟨index⟩", NAME: "⟨name⟩"}

# Where a template takes the thought of a message from. "parts": a content part of type "thinking"; "content": the text,
# with its own tags around it; "none": nowhere, it drops thoughts.
ThoughtField = Literal["reasoning_content", "reasoning", "thinking", "parts", "content", "none"]
ThoughtState = Literal["open", "closed", "free"]
# What a template refuses or drops: system messages, those that are not the first message, messages in a row of one
# role, several calls in one message, a text beside calls, null as the text beside calls.
Refusal = Literal["system", "late_system", "repeated_roles", "parallel_calls", "text_with_calls", "null_content"]


@dataclass(frozen=True, kw_only=True)
class ThoughtFormat:
    """`open THOUGHT close` before an answer: Qwen 3 has `<think>\\n` and `\\n</think>\\n\\n`."""

    open: str
    close: str
    close_to_call: str | None = None  # in place of `close` where a call follows without text; None: the same
    none: str = ""  # what a history has in place of a thought, and a model may write itself: `<think>\n\n</think>\n\n`
    message_field: ThoughtField = "reasoning_content"
    on: Mapping[str, Any] | None = None  # template variables that let the model think; None: none needed
    off: Mapping[str, Any] | None = None  # those that keep it from thinking; None: the template has no such switch
    calls_close: bool = False  # a call inside a thought ends it; else it is a part of the thought
    reopens: bool = False  # a thought may begin anywhere in the answer

    def state(self, prompt: str) -> ThoughtState:
        """Where a rendered prompt leaves the model: inside a thought, after one, or free to begin one."""
        end = prompt.rstrip()
        if self.open.strip() and end.endswith(self.open.strip()):
            return "open"
        closed = tuple(text for text in (self.none.strip(), self.close.strip()) if text)
        return "closed" if closed and end.endswith(closed) else "free"


@dataclass(frozen=True, kw_only=True)
class ArgumentsFormat:
    """The arguments of a call. In syntax

    - `json` they are one JSON object;
    - `parameters` each has its name: `open KEY after_key VALUE (between KEY after_key VALUE)* close`, or `empty` where
      there are none. Strings stand between `quote`s (escaped as in JSON), raw where `quote` is ""; raw ones end where
      `between` or `close` begins. Other values are JSON, or Python's True, False and None;
    - `gemma` and `minimax` values are nested in syntaxes of their own: see `gemma` and `minimax`.
    """

    syntax: Literal["json", "parameters", "gemma", "minimax"] = "json"
    open: str = ""
    after_key: str = ""
    after_key_other: str | None = None  # in place of `after_key` before values that are no strings; None: the same
    between: str = ""
    close: str = ""
    empty: str = ""
    quote: str = ""
    cdata: bool = False  # raw strings may stand in <![CDATA[...]]>


@dataclass(frozen=True, kw_only=True)
class CallsFormat:
    """Tool calls: `first NAME after_name ARGUMENTS (next NAME after_name ARGUMENTS)* last`."""

    first: str
    after_name: str
    last: str
    next: str | None = None  # None: an answer has one call at most
    arguments: ArgumentsFormat = ArgumentsFormat()
    after_text: str = ""  # between the answer's text and `first`
    others: tuple[tuple[str, str], ...] = ()  # other pairs of `first` and `after_name` that the model writes too
    id_form: Literal["any", "mistral", "kimi"] = "any"  # nine alphanumerics; `functions.NAME:INDEX`
    string_arguments: bool = False  # the template takes arguments of earlier calls as JSON text only


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """How a model's answers look, and what its template takes."""

    answer_open: str = ""  # the generation prompt
    ends: tuple[str, ...] = ()  # what a template writes after an answer; end tokens of the vocabulary end it in fact
    text_open: str = ""  # before the text of an answer without a thought
    text_close: str = ""
    dropped: tuple[str, ...] = ()  # what a model writes besides, which means nothing
    thought: ThoughtFormat | None = None
    calls: CallsFormat | None = None  # None: the template writes no calls that could be read off
    calls_as_text: bool = False  # the template writes no earlier calls: they are a part of the content
    content: Literal["string", "parts"] = "string"  # the form of a message's content that the template reads
    refused: frozenset[Refusal] = frozenset()

    @property
    def is_plain(self) -> bool:
        """Whether an answer that cannot call is all text."""
        return not (self.thought or self.text_open or self.text_close or self.dropped)

    def literals(self) -> Iterator[str]:
        """All that a model writes between its thought, text, names and values."""
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
    """A literal with its holes named, for people."""
    for hole, name in _HOLES.items():
        literal = literal.replace(hole, name)
    return literal
