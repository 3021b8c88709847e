"""Reads a chat format off a chat template: renders chats with markers and takes what stands between the markers.

The format proves itself: it predicts how the template writes another thought, other names and values and three calls.
What it does not predict is dropped. The template is hostile: all renderings share one budget of time, and literals are
short.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import takewhile
from typing import Any

from ggserve.chat.exceptions import corrected
from ggserve.chat.format import (
    ID,
    INDEX,
    ArgumentsFormat,
    CallsFormat,
    ChatFormat,
    Refusal,
    ThoughtField,
    ThoughtFormat,
)
from ggserve.chat.template import ChatTemplate
from ggserve.chat.writing import write_answer, written_alike
from ggserve.errors import TemplateError

_SECONDS = 1.0  # for all renderings
_LONGEST = 300  # characters of a literal

_USER, _TEXT, _THOUGHT, _SYSTEM, _RESULT = "Zquser", "Zqtext", "Zqthought", "Zqsystem", "Zqresult"
_NAMES = ("zqfirst", "zqsecond", "zqthird")
_KEYS = ("zqkeya", "zqkeyb")
_VALUES = ("Zqvaluea", "Zqvalueb")
_NUMBER = 7771777
_IDS = ("Zqcall0Aa", "Zqcall1Bb", "Zqcall2Cc")  # of nine characters: Mistral's templates take no others
_FIELDS: tuple[ThoughtField, ...] = ("reasoning_content", "reasoning", "thinking", "parts")
_OFF: tuple[dict[str, Any], ...] = (
    {"enable_thinking": False},
    {"thinking": False},
    {"thinking_mode": "disabled"},
    {"reasoning_effort": "none"},
)
_ON: tuple[dict[str, Any], ...] = ({"enable_thinking": True}, {"thinking": True}, {"thinking_mode": "enabled"})
_TOKENS = re.compile(r"<[^<>\s]*>|<[^<>]*>|\[/?[A-Z_ ]+\]|\s+|[^<\[\s]+|.", re.DOTALL)
_OBJECT = re.compile(rf'\{{\s*"{_KEYS[0]}"\s*:\s*"{_VALUES[0]}"\s*\}}')
_ENDS = re.compile(
    r"<\|(?:im_end|eot_id|eom_id|eot|eom|end|return|call|endoftext|end_of_text|end_of_msg|END_OF_TURN_TOKEN)\|>"
    r"|</s>|<｜end▁of▁sentence｜>"
)
# What opens thoughts in templates that write none of earlier turns, and what closes them.
_EMPTY_THOUGHT = re.compile(r"^<(\w+)></\1>|^<\|START_(\w+)\|><\|END_\2\|>")
_TAGS = re.compile(r"<((?:\w+:)?(?:think|thinking|thought|reasoning))>|<\|START_(THINKING)\|>")

_ARGUMENTS = ({_KEYS[0]: _VALUES[0]}, f'{{"{_KEYS[0]}": "{_VALUES[0]}"}}')  # an object, and its text

Messages = list[dict[str, Any]]
_Variables = Mapping[str, Any] | None


class _OutOfTime(Exception):
    """The template took all the time there is."""


def read_format(template: ChatTemplate, seconds: float = _SECONDS) -> ChatFormat:
    """The format of a template; what cannot be read off in time is left out."""
    reading = _Reading(template, seconds)
    try:
        reading.read()
    except _OutOfTime:
        return ChatFormat()
    return corrected(reading.form, template.source)


@lru_cache(16)
def format_of(source: str) -> ChatFormat:
    """The format of a template's source, without a model's texts for BOS and EOS; an empty one where it does not
    compile."""
    try:
        return read_format(ChatTemplate(source))
    except TemplateError:
        return ChatFormat()


def _user(text: str = _USER) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _tool(name: str) -> dict[str, Any]:
    properties = {key: {"type": "string", "description": "A text."} for key in _KEYS}
    parameters = {"type": "object", "properties": properties, "required": []}
    return {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": parameters}}


_TOOLS = [_tool(name) for name in _NAMES]


def tool_call(index: int, name: str, arguments: Any, call_id: str) -> dict[str, Any]:
    """A call as templates take it."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}, "index": index}


class _Reading:
    """One template, as far as it is read. `form` grows."""

    def __init__(self, template: ChatTemplate, seconds: float) -> None:
        self._template = template
        self._deadline = time.monotonic() + seconds
        self.form = ChatFormat()
        self._header = ""  # what stands before an answer, without a thought's beginning
        self._always_prompts = False
        self._closes_to_call = False  # what closes a thought was read off a message with a call
        self._thinks_with: Mapping[str, Any] | None = None
        self._end = ""

    def read(self) -> None:
        """Fills the format, what all answers need first."""
        self._read_content()
        self._read_refusals()
        self._read_text()
        self._read_thought()
        self._read_switches()
        self._read_calls()
        self._prove()

    def _render(
        self,
        messages: Messages,
        *,
        tools: bool = False,
        prompt: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str | None:
        """The rendering; None where the template refuses."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise _OutOfTime
        try:
            return self._template.render(
                [self._with_parts(message) for message in messages],
                tools=_TOOLS if tools else None,
                add_generation_prompt=prompt,
                variables=variables or {},
                seconds=left,
            )
        except TemplateError:
            return None

    def _with_parts(self, message: dict[str, Any]) -> dict[str, Any]:
        content = message.get("content")
        if self.form.content == "parts" and isinstance(content, str):
            return {**message, "content": [{"type": "text", "text": content}]}
        return message

    def _set(self, **fields: Any) -> None:
        self.form = replace(self.form, **fields)

    def _read_content(self) -> None:
        if _USER not in (self._render([_user()]) or ""):
            self._set(content="parts")
            if _USER not in (self._render([_user()]) or ""):
                self._set(content="string")

    def _read_refusals(self) -> None:
        system = {"role": "system", "content": _SYSTEM}
        answer = {"role": "assistant", "content": _TEXT}
        trials: list[tuple[Refusal, Messages]] = [
            ("system", [system, _user()]),
            ("late_system", [_user(), answer, system, _user()]),
            ("repeated_roles", [_user(_SYSTEM), _user()]),
        ]
        refused = {name for name, messages in trials if _SYSTEM not in (self._render(messages) or "")}
        silent, said = ([self._calling(content, arguments) for arguments in _ARGUMENTS] for content in (None, _TEXT))
        if all(text is None or re.search(r"\b(None|null)\b", text) for text in silent):
            refused.add("null_content")
        if all(text is None or _TEXT not in text for text in said):
            refused.add("text_with_calls")
        self._set(refused=frozenset(refused))

    def _calling(self, content: str | None, arguments: Any) -> str | None:
        """A chat with one call and its result."""
        call = tool_call(0, _NAMES[0], arguments, _IDS[0])
        message = {"role": "assistant", "content": content, "tool_calls": [call]}
        return self._render([_user(), message, _result(0)], tools=True)

    def _answer(self, message: dict[str, Any], *, tools: bool = False, variables: _Variables = None) -> str:
        """How the template writes a last message of the assistant's, behind the user's; "" where it does not."""
        before = self._render([_user()], tools=tools, variables=variables)
        said = {"role": "assistant", "content": "", **message}
        whole = self._render([_user(), said], tools=tools, variables=variables)
        if before is None or whole is None:
            return ""
        if self._always_prompts:
            return whole.rpartition(_USER)[2]
        shared = _shared(before, whole)  # some templates end the last message in another way
        at = whole.rfind(_USER, 0, shared)
        return whole[shared:] if len(before) - shared < 40 and at >= 0 else whole[at + len(_USER) :] if at >= 0 else ""

    def _read_text(self) -> None:
        without, prompt = self._render([_user()]), self._render([_user()], prompt=True)
        self._always_prompts = without == prompt and prompt is not None and not prompt.endswith(_USER)
        self._set(answer_open=_short(self._prompt(None)))
        answer = self._answer({"content": _TEXT})
        before, found, end = answer.partition(_TEXT)
        if found:
            found_end = _ENDS.search(end)
            text_close, self._end = (end[: found_end.start()], end[found_end.start() :]) if found_end else ("", end)
            self._end, self._before_text = _short(self._end), before
            self._set(ends=tuple(filter(None, (self._end.strip(),))), text_close=_short(text_close.strip()))
        else:
            self._before_text = self.form.answer_open
        earlier = self._render([_user(), {"role": "assistant", "content": _TEXT}, _user("Zqagain")]) or ""
        between = earlier.partition(_USER)[2].partition(_TEXT)[0]
        user_end = (without or "").partition(_USER)[2]
        self._earlier = between if self._always_prompts else between.removeprefix(user_end)
        self._earlier = self._earlier if _TEXT in earlier else before
        self._header = min(
            (text for text in (self.form.answer_open, self._earlier, before) if text), key=len, default=""
        )

    def _read_thought(self) -> None:
        """How a thought is written, as the first field shows that the template reads."""
        call = tool_call(0, _NAMES[0], {_KEYS[0]: _VALUES[0]}, _IDS[0])
        for variables in (None, *_ON):
            for name in _FIELDS:
                answer = self._answer(_thinking(name, _THOUGHT, _TEXT), variables=variables)
                with_call = ""
                if answer.count(_THOUGHT) != 1:
                    message = {**_thinking(name, _THOUGHT, ""), "tool_calls": [call]}
                    with_call = self._answer(message, tools=True, variables=variables)
                found = answer if answer.count(_THOUGHT) == 1 else with_call
                if found.count(_THOUGHT) == 1 and not re.search(r"['\"]thinking['\"]", found):
                    self._thinks_with = variables
                    self._take_thought(name, found)
                    return
        self._read_text_open(self._before_text)
        self._guess_thought()

    def _take_thought(self, name: ThoughtField, answer: str) -> None:
        before, _, after = answer.partition(_THOUGHT)
        header = self._header_of(before)
        opening = before[len(header) :]
        prompt = self._prompt(self._thinks_with)
        if prompt.startswith(before) and before.strip() and len(prompt) > len(before):
            header, opening = before, prompt[len(before) :]  # the prompt alone says what opens a thought
        close = after.partition(_TEXT)[0] if _TEXT in after else "".join(_first_tag(after))
        tag = re.search(r"</([^<>|]+)>|<\|END_(\w+)\|>", close)
        if tag and header.rstrip().endswith((f"<{tag[1]}>", f"<|START_{tag[2]}|>")):
            at = header.rindex("<")
            header, opening = header[:at], header[at:] + opening
        rest = self._before_text.removeprefix(header) if self._before_text.startswith(header) else ""
        text_open = ""
        if rest and _TEXT in after and close.endswith(rest) and close[: -len(rest)].strip():
            text_open, close, rest = rest, close[: -len(rest)], ""
        self._header = header
        self._closes_to_call = _TEXT not in after
        if opening.strip() and len(opening) <= _LONGEST and len(close) <= _LONGEST:
            thought = ThoughtFormat(open=opening, close=close, none=_short(rest), message_field=name)
            self._set(thought=thought, text_open=text_open)

    def _guess_thought(self) -> None:
        """That of a template which drops thoughts, as its prompts or its source name the tags."""
        prompts = [self.form.answer_open, *(self._prompt(variables) for variables in (*_ON, *_OFF))]
        for text in (*prompts, self._template.source):
            tag = _TAGS.search(text)
            closing = "" if tag is None else f"</{tag[1]}>" if tag[1] else f"<|END_{tag[2]}|>"
            if tag and (closing in self._template.source or text is not self._template.source):
                opening, close = (f"{tag[0]}\n", f"\n{closing}\n\n") if tag[1] else (tag[0], closing)
                message = {"content": f"{opening}{_THOUGHT}{close}{_TEXT}"}
                written = self._answer(message)
                kept = _THOUGHT in written and written.count(tag[0]) == 1
                self._set(thought=ThoughtFormat(open=opening, close=close, message_field="content" if kept else "none"))
                self._header = self._header.partition(tag[0])[0]
                self._set(text_open="" if closing in self.form.text_open else self.form.text_open)
                return

    def _read_text_open(self, before: str) -> None:
        if self.form.answer_open and before.startswith(self.form.answer_open):
            self._set(text_open=_short(before[len(self.form.answer_open) :]))
            self._header = self.form.answer_open

    def _header_of(self, before: str) -> str:
        """What of the text before a thought also stands before answers that have none."""
        others = [self.form.answer_open, self._earlier, self._before_text]
        others += [self._prompt(variables) for variables in (*_OFF, *_ON)]
        shared = [_shared_tokens(before, other) for other in others if other]
        shorter = [text for text in shared if text and text != before]
        if shorter:
            return min(shorter, key=len)
        tokens = _TOKENS.findall(before)
        tags = [index for index, token in enumerate(tokens) if not token.isspace() and re.match(r"<|\[", token)]
        return "".join(tokens[: tags[-1]]) if tags else before

    def _prompt(self, variables: Mapping[str, Any] | None) -> str:
        """The generation prompt with some variables."""
        without, prompt = (
            self._render([_user()], variables=variables),
            self._render([_user()], prompt=True, variables=variables),
        )
        if without is None or prompt is None:
            return ""
        return prompt.rpartition(_USER)[2] if self._always_prompts else prompt[_shared(without, prompt) :]

    def _read_switches(self) -> None:
        """The template variables that turn thinking on and off."""
        if self.form.thought is None:
            return
        usual = self._render([_user()], prompt=True)

        def first_that_changes(choices: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
            for variables in choices:
                rendered = self._render([_user()], prompt=True, variables=variables)
                if rendered is not None and rendered != usual:
                    return variables
            return None

        off, on = first_that_changes(_OFF), first_that_changes(_ON)
        self._set(thought=replace(self.form.thought, on=on, off=off))

    def _calls(self, count: int, arguments: Sequence[Any], ids: Sequence[str], *, text: str = "") -> str:
        calls = [tool_call(i, _NAMES[i], arguments[i], ids[i]) for i in range(count)]
        silent = not text and "null_content" not in self.form.refused
        return self._answer({"content": None if silent else text, "tool_calls": calls}, tools=True)

    def _read_calls(self) -> None:
        kimi = [f"functions.{name}:{index}" for index, name in enumerate(_NAMES)]
        for ids, given in ((ids, given) for ids in (_IDS, kimi) for given in _ARGUMENTS):
            string = isinstance(given, str)
            answer = self._calls(1, [given], ids)
            behind = answer.partition(_NAMES[0])[2]
            if not behind or _VALUES[0] not in behind:
                continue
            form = self._json_calls(given, ids) if _OBJECT.search(behind) else None
            if form is None and not string:
                form = self._parameter_calls(ids)
            if form is not None:
                self._set(
                    calls=replace(form, string_arguments=string, id_form="kimi" if ids is kimi else self._id_form())
                )
                if form.next is None:
                    self._set(refused=self.form.refused | {"parallel_calls"})
                return

    def _id_form(self) -> Any:
        long_id = "Zqcall0AaBbCcDd"
        call = tool_call(0, _NAMES[0], {}, long_id)
        result = {"role": "tool", "tool_call_id": long_id, "name": _NAMES[0], "content": _RESULT}
        short = [_user(), {"role": "assistant", "content": "", "tool_calls": [{**call, "id": _IDS[0]}]}, _result(0)]
        messages = [_user(), {"role": "assistant", "content": "", "tool_calls": [call]}, result]
        refuses = self._render(messages, tools=True) is None and self._render(short, tools=True) is not None
        return "mistral" if refuses else "any"

    def _split(self, answer: str, arguments: str | re.Pattern[str]) -> list[str]:
        """The literals around the names and arguments of an answer with calls, in their order."""
        pieces = []
        rest = answer
        for name in _NAMES:
            before, found, behind = rest.partition(name)
            if not found:
                break
            match = re.search(arguments, behind)
            if match is None:
                return []
            pieces += [before, behind[: match.start()]]
            rest = behind[match.end() :]
        return [*pieces, rest]

    def _json_calls(self, given: Any, ids: Sequence[str]) -> CallsFormat | None:
        return self._assembled([self._split(self._calls(n, [given] * n, ids), _OBJECT) for n in (1, 2, 3)], ids)

    def _assembled(self, pieces: list[list[str]], ids: Sequence[str]) -> CallsFormat | None:
        single, double, triple = pieces
        if len(single) != 3:
            return None
        after_text, first = self._first(single[0], ids)
        after_name, last = single[1], single[2]
        following = None
        if len(double) == 5:
            following, last = double[2], double[4]
            if len(triple) == 7:
                following, first, after_name = _with_index(following, triple[4], first, (after_name, double[3]))
        last = self._without_end(last)
        holes = [_holes(text, ids) for text in (first, after_name, following or "", last)]
        if any(len(text) > _LONGEST for text in holes):
            return None
        return CallsFormat(
            first=holes[0],
            after_name=holes[1],
            next=None if following is None else holes[2],
            last=holes[3],
            after_text=after_text,
        )

    def _first(self, before: str, ids: Sequence[str]) -> tuple[str, str]:
        """What separates a text from calls, and what opens the first one."""
        thought = self.form.thought
        first = before.removeprefix(self._header) if before.startswith(self._header) else before
        if first == before and self._header:
            first = first[len(_shared_tokens(before, self._header)) :]
        if thought:
            tags = thought.open.strip() + thought.close.strip()
            for text in (thought.none, thought.open + thought.close, tags, thought.close):
                if text.strip() and first.startswith(text.strip()):
                    first = first[len(text) :] if first.startswith(text) else first[len(text.strip()) :]
        for text in (self.form.text_open, self.form.text_close):
            first = first.removeprefix(text) if text else first
        first = _EMPTY_THOUGHT.sub("", first)
        answer = self._calls(1, [{_KEYS[0]: _VALUES[0]}], ids, text=_TEXT)
        before, found, behind = answer.partition(_TEXT)
        between = behind.partition(_NAMES[0])[0] if found else ""
        if between.endswith(first.lstrip()) and first.strip():
            stripped = first.lstrip()
            apart = between[: -len(stripped)].removeprefix(self.form.text_close)
            return "" if self._end.strip() and self._end.strip() in apart else _short(apart), stripped
        return "", first

    def _without_end(self, last: str) -> str:
        if self._end and last.endswith(self._end):
            return last[: -len(self._end)]
        if self._end.strip() and last.rstrip().endswith(self._end.strip()):
            return last.rstrip()[: -len(self._end.strip())]
        end = _ENDS.search(last)
        return last[: end.start()] if end else last

    def _parameter_calls(self, ids: Sequence[str]) -> CallsFormat | None:
        """Calls whose parameters each have their name."""
        key, value = _KEYS[0], _VALUES[0]
        both = dict(zip(_KEYS, _VALUES, strict=True))
        answer, two = self._calls(1, [{key: value}], ids), self._calls(1, [both], ids)
        pattern = rf"{key}(.*?){value}"
        found = re.search(pattern, answer, re.DOTALL)
        found_two = re.search(rf"{key}(.*?){_VALUES[0]}(.*?){_KEYS[1]}(.*?){_VALUES[1]}", two, re.DOTALL)
        if found is None or found_two is None:
            return None
        after_key, between = found[1], found_two[2]
        quote = after_key[-1] if after_key[-1:] in ("'", '"') and between[:1] == after_key[-1] else ""
        if quote:
            after_key, between = after_key[:-1], between[1:]
        before = answer.partition(_NAMES[0])[2][: found.start() - len(answer.partition(_NAMES[0])[0]) - len(_NAMES[0])]
        after = answer[found.end() + len(quote) :]
        close = _shared_tokens(after, between) if not quote else ""
        opening = between[len(close) :]
        if quote or not before.endswith(opening) or not opening.strip():
            close, opening = "", ""
        after_name = before[: len(before) - len(opening)] if opening else before
        number = self._calls(1, [{key: _NUMBER}], ids)
        other = re.search(rf"{key}(.*?){_NUMBER}", number, re.DOTALL)
        arguments = ArgumentsFormat(
            syntax="parameters",
            open=opening,
            after_key=after_key,
            after_key_other=other[1] if other and other[1] != after_key and not quote else None,
            between=between,
            close=close,
            quote=quote,
        )
        quoted = re.escape(quote)
        region = rf"{re.escape(opening)}{key}{re.escape(after_key)}{quoted}{value}{quoted}{re.escape(close)}"
        given = [{key: value}] * 3
        pieces = [self._split(self._calls(n, given[:n], ids), region) for n in (1, 2, 3)]
        form = self._assembled(pieces, ids)
        if form is None:
            return None
        nothing = self._calls(1, [{}], ids).partition(_NAMES[0])[2]
        nothing, last = self._without_end(nothing), form.last
        empty = ""
        if nothing.startswith(form.after_name) and nothing.rstrip().endswith(last.rstrip()):
            empty = nothing[len(form.after_name) : len(nothing.rstrip()) - len(last.rstrip())]
        return replace(
            form, after_name=form.after_name or after_name, arguments=replace(arguments, empty=_short(empty))
        )

    def _prove(self) -> None:
        """Keeps what predicts other renderings."""
        proven: set[Any] = set()
        thought, text = "Why not\nso?", "It is so."
        if form := self.form.thought:
            calls = [("look_up", {"place": "Ort"}, "Abcdefgh1")]
            expected = write_answer(self.form, thought, text, [])
            answer = self._answer(_thinking(form.message_field, thought, text), variables=self._thinks_with)
            if self._closes_to_call and self.form.calls:
                expected = write_answer(self.form, thought, "", calls)
                message = {**_thinking(form.message_field, thought, ""), "tool_calls": self._given(calls)}
                answer = self._answer(message, tools=True, variables=self._thinks_with)
            expected = expected if form.open in answer else expected.removeprefix(form.open)
            if form.message_field in ("content", "none") or written_alike(answer, expected):
                proven.add("thought")
            else:
                self._set(thought=None)
                self._guess_thought()
        if self.form.calls:
            silent = None if "null_content" not in self.form.refused else ""
            for count in (3, 2) if self.form.calls.next is not None else (1,):
                names = ("look_up", "find", "x1")[:count]
                made = [(name, {"place": f"Ort {i}", "how": "so & so"}, f"Abcdefgh{i}") for i, name in enumerate(names)]
                answer = self._answer({"content": silent, "tool_calls": self._given(made)}, tools=True)
                if written_alike(answer, write_answer(self.form, "", "", made)):
                    proven.add("calls")
                    break
            else:
                self._set(calls=None)
        self._set(proven=frozenset(proven))

    def _given(self, calls: Sequence[tuple[str, dict[str, Any], str]]) -> list[dict[str, Any]]:
        """Calls as the template takes them."""
        form = self.form.calls
        assert form is not None
        return [
            tool_call(
                index,
                name,
                json.dumps(arguments) if form.string_arguments else arguments,
                f"functions.{name}:{index}" if form.id_form == "kimi" else call_id,
            )
            for index, (name, arguments, call_id) in enumerate(calls)
        ]


def _thinking(field: ThoughtField, thought: str, text: str) -> dict[str, Any]:
    """A message with a thought where the template takes it from."""
    if field != "parts":
        return {field: thought, "content": text}
    parts = [{"type": "thinking", "thinking": thought}]
    return {"content": [*parts, {"type": "text", "text": text}] if text else parts}


def _result(index: int) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": _IDS[index], "name": _NAMES[index], "content": _RESULT}


def _shared(one: str, other: str) -> int:
    """The length of the shared beginning, but for the beginning of a tag."""
    length = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    begun = one.rfind("<", max(0, length - _LONGEST), length)
    return begun if begun >= 0 and ">" not in one[begun:length] and length < max(len(one), len(other)) else length


def _shared_tokens(one: str, other: str) -> str:
    """The shared beginning in whole tags, words and runs of white space."""
    pairs = zip(_TOKENS.findall(one), _TOKENS.findall(other), strict=False)
    return "".join(token for token, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _first_tag(text: str) -> Iterator[str]:
    """The tokens up to the first tag, and that."""
    for token in _TOKENS.findall(text):
        yield token
        if token.startswith(("<", "[")):
            return


def _short(literal: str) -> str:
    return literal if len(literal) <= _LONGEST else ""


def _holes(literal: str, ids: Sequence[str]) -> str:
    for call_id in ids:
        literal = literal.replace(call_id, ID)
    return literal


def _with_index(following: str, next_but_one: str, first: str, after_names: tuple[str, str]) -> tuple[str, str, str]:
    """The literals with INDEX where they count calls."""
    one, other = re.split(r"(\d+)", following), re.split(r"(\d+)", next_but_one)
    differing = [i for i in range(1, min(len(one), len(other)), 2) if one[i] != other[i]]
    if len(one) == len(other) and one[::2] == other[::2]:
        for index in differing:
            before = one[index - 1][-8:]
            first = re.sub(rf"{re.escape(before)}\d+", lambda _: before + INDEX, first, count=1)  # noqa: B023
            one[index] = INDEX
        following = "".join(one)
    counted = [re.split(r"(\d+)", text) for text in after_names]
    after_name = after_names[0]
    if counted[0] != counted[1] and counted[0][::2] == counted[1][::2]:
        after_name = "".join(INDEX if a != b else a for a, b in zip(*counted, strict=True))
    return following, first, after_name
