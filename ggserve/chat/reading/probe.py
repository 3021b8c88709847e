"""A chat template, rendered with markers, and what has been read off it so far."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ggserve.chat.format import ChatFormat, ThoughtField
from ggserve.chat.reading.pieces import shared
from ggserve.chat.template import ChatTemplate
from ggserve.errors import TemplateError

USER, TEXT, THOUGHT, SYSTEM, RESULT = "Zquser", "Zqtext", "Zqthought", "Zqsystem", "Zqresult"
NAMES = ("zqfirst", "zqsecond", "zqthird")
KEYS = ("zqkeya", "zqkeyb")
VALUES = ("Zqvaluea", "Zqvalueb")
IDS = ("Zqcall0Aa", "Zqcall1Bb", "Zqcall2Cc")  # nine characters: Mistral's templates take no others
ARGUMENTS = ({KEYS[0]: VALUES[0]}, f'{{"{KEYS[0]}": "{VALUES[0]}"}}')  # an object, and its text

Messages = list[dict[str, Any]]
Variables = Mapping[str, Any] | None


class OutOfTime(Exception):
    """The template has used up its time."""


def user(text: str = USER) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _tool(name: str) -> dict[str, Any]:
    properties = {key: {"type": "string", "description": "A text."} for key in KEYS}
    parameters = {"type": "object", "properties": properties, "required": []}
    return {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": parameters}}


_TOOLS = [_tool(name) for name in NAMES]


def tool_call(index: int, name: str, arguments: Any, call_id: str) -> dict[str, Any]:
    """Return a call in the form that templates take."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}, "index": index}


def thinking(field: ThoughtField, thought: str, text: str) -> dict[str, Any]:
    """Return a message with a thought in the field that the template reads."""
    if field != "parts":
        return {field: thought, "content": text}
    parts = [{"type": "thinking", "thinking": thought}]
    return {"content": [*parts, {"type": "text", "text": text}] if text else parts}


def result(index: int) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": IDS[index], "name": NAMES[index], "content": RESULT}


class Probe:
    """One template, as far as it is read: each step sets more of `form`."""

    def __init__(self, template: ChatTemplate, seconds: float) -> None:
        self.template = template
        self._deadline = time.monotonic() + seconds
        self.form = ChatFormat()
        self.header = ""  # the text before an answer, without a thought's beginning
        self.before_text = ""  # the text before an answer without a thought, in the last message
        self.earlier = ""  # and in an earlier message
        self.end = ""  # the text after an answer
        self.always_prompts = False  # the template opens an answer unasked
        self.closes_to_call = False  # the closing literal was read off a message with a call
        self.thinks_with: Variables = None  # template variables without which it drops thoughts

    def render(
        self,
        messages: Messages,
        *,
        tools: bool = False,
        prompt: bool = False,
        variables: Variables = None,
    ) -> str | None:
        """Return the rendering, or None if the template rejects the messages."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise OutOfTime
        try:
            return self.template.render(
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

    def set(self, **fields: Any) -> None:
        self.form = replace(self.form, **fields)

    def answer(self, message: dict[str, Any], *, tools: bool = False, variables: Variables = None) -> str:
        """Return the text that the template writes for a last assistant message after the user's; "" if it writes
        none."""
        before = self.render([user()], tools=tools, variables=variables)
        said = {"role": "assistant", "content": "", **message}
        whole = self.render([user(), said], tools=tools, variables=variables)
        if before is None or whole is None:
            return ""
        if self.always_prompts:
            return whole.rpartition(USER)[2]
        length = shared(before, whole)  # some templates end the last message in another way
        at = whole.rfind(USER, 0, length)
        return whole[length:] if len(before) - length < 40 and at >= 0 else whole[at + len(USER) :] if at >= 0 else ""

    def prompt(self, variables: Variables) -> str:
        """Return the generation prompt with some variables."""
        without, prompt = (
            self.render([user()], variables=variables),
            self.render([user()], prompt=True, variables=variables),
        )
        if without is None or prompt is None:
            return ""
        return prompt.rpartition(USER)[2] if self.always_prompts else prompt[shared(without, prompt) :]
