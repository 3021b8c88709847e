"""The messages of a chat in the form that one template takes: results in the order of their calls, and the roles, forms
of content and thoughts that it reads."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic_core import from_json

from ggserve.chat.format import ChatFormat
from ggserve.chat.own_tools import with_own_tools
from ggserve.chat.writing import write_calls
from ggserve.errors import InvalidRequest

Message = dict[str, Any]
Messages = list[Message]

_SHORT_ID = 9  # characters
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")


def checked(messages: Sequence[Mapping[str, Any]]) -> Messages:
    """Return the messages with calls whose arguments are objects, and with ids that are texts. Raises
    InvalidRequest."""
    return [_checked(message) for message in messages]


def _checked(message: Mapping[str, Any]) -> Message:
    known = dict(message)
    calls = known.pop("tool_calls", None)
    if calls:
        if not isinstance(calls, list):
            raise InvalidRequest("tool_calls must be a list of calls", "messages")
        known["tool_calls"] = [_call(call) for call in calls]
    if known.get("tool_call_id") is not None:
        known["tool_call_id"] = str(known["tool_call_id"])
    return known


def _call(call: Any) -> Message:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidRequest("each of tool_calls must have a function with a name and arguments", "messages")
    arguments = _object(function.get("arguments"))
    call_id = "" if call.get("id") is None else str(call["id"])
    return {"id": call_id, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _object(arguments: Any) -> dict[str, Any]:
    """Return the arguments of a call, without what is incomplete in cut JSON."""
    if isinstance(arguments, str):
        try:
            arguments = from_json(arguments or "{}", allow_partial="trailing-strings")
        except ValueError:
            return {"arguments": arguments} if arguments.strip() else {}
    return arguments if isinstance(arguments, dict) else {}


class History:
    """Arranges messages for the template of a format. `marker` stands for an image in a text."""

    def __init__(self, form: ChatFormat, marker: str = "") -> None:
        self._form = form
        self._marker = marker
        self.images: list[str] = []  # data URLs, in the order of their markers

    def arranged(self, messages: Messages, own_tools: Sequence[Any] | None = None) -> Messages:
        """Return the `checked` messages as the template takes them. For a template without tools, `own_tools` and their
        calls are described in texts."""
        texts = [{**message, "content": self._text(message.get("content"))} for message in messages]
        bound = _bound(texts)
        if own_tools is not None:
            bound = with_own_tools(list(self._roles(bound)), own_tools)
        elif "parallel_calls" in self._form.refused:
            bound = list(_one_call_each(bound))
        return [self._finished(message) for message in self._roles(self._with_ids(bound))]

    def _text(self, content: Any) -> str:
        """Return the text of a content, with a marker for each image. Text parts are separate lines."""
        if not isinstance(content, (list, tuple)):
            return content or ""
        pieces = []
        for part in content:
            if part.get("type") == "image_url":
                self.images.append(part["image_url"]["url"])
                pieces.append(self._marker)
            else:
                pieces.append(part.get("text") or part.get("refusal") or "")
        return "\n".join(pieces)

    def _roles(self, messages: Messages) -> Iterator[Message]:
        """Return the messages in roles and an order that the template takes: leading system messages become one, and
        what it rejects becomes part of the user's turn."""
        refused = self._form.refused
        arranged: Messages = []
        for message in messages:
            last = arranged[-1] if arranged else None
            if message["role"] == "system":
                leads = all(earlier["role"] == "system" for earlier in arranged)
                if leads and last:
                    arranged[-1] = {**last, "content": _joined(last["content"], message["content"])}
                    continue
                if "system" in refused or ("late_system" in refused and not leads):
                    message = {**message, "role": "user"}
            if last and _same_turn(last, message) and ({"repeated_roles", "system"} & refused):
                arranged[-1] = {**last, **message, "content": _joined(last["content"], message["content"])}
            else:
                arranged.append(message)
        yield from arranged

    def _with_ids(self, messages: Messages) -> Messages:
        """Return the messages with call ids in the form that the template takes."""
        calls = self._form.calls
        if calls is None or calls.id_form == "any":
            return messages
        names: dict[str, str] = {}
        count = 0
        for message in messages:
            for call in message.get("tool_calls", ()):
                new = (
                    _short(call["id"])
                    if calls.id_form == "mistral"
                    else f"functions.{call['function']['name']}:{count}"
                )
                names[call["id"]] = new
                count += 1
        return [_renamed(message, names) for message in messages]

    def _finished(self, message: Message) -> Message:
        """Return one message with its thought, content and arguments in the form that the template reads."""
        form = self._form
        thought = next((message[key] for key in _THOUGHTS if isinstance(message.get(key), str)), "")
        known = {key: value for key, value in message.items() if key not in _THOUGHTS}
        calls = known.get("tool_calls")
        if calls and form.calls and form.calls.string_arguments:
            known["tool_calls"] = [_with_text(call) for call in calls]
        if calls and form.calls and form.calls_as_text:
            made = [(call["function"]["name"], call["function"]["arguments"], call["id"]) for call in calls]
            known["content"] += write_calls(form.calls, made)
            calls = known.pop("tool_calls") and None
        parts: list[dict[str, Any]] = []
        if thought and form.thought and message["role"] == "assistant":
            field = form.thought.message_field
            if field == "parts":
                parts = [{"type": "thinking", "thinking": thought}]
            elif field == "content":
                known["content"] = f"{form.thought.open}{thought}{form.thought.close}{known['content']}"
            elif field != "none":
                known[field] = thought
        if form.content == "parts" or parts:
            texts = [{"type": "text", "text": known["content"]}] if known["content"] or not parts else []
            known["content"] = parts + texts
        elif calls and not known["content"] and "null_content" not in form.refused:
            known["content"] = None
        return known


def _bound(messages: Messages) -> Messages:
    """Return the messages with the results of calls in the order of the calls, each with its own id and name."""
    arranged: Messages = []
    at = made = 0
    while at < len(messages):
        message = messages[at]
        at += 1
        calls = message.get("tool_calls")
        if not calls:
            arranged.append(message)
            continue
        calls = [{**call, "id": call["id"] or f"call_{made + index}"} for index, call in enumerate(calls)]
        made += len(calls)
        arranged.append({**message, "tool_calls": calls})
        results = []
        while at < len(messages) and messages[at]["role"] == "tool":
            results.append(messages[at])
            at += 1
        arranged += _in_order(calls, results)
    return arranged


def _in_order(calls: Sequence[Message], results: Messages) -> Messages:
    """Return the results of some calls in the calls' order. A result without an id belongs to the first open call of
    its name, or else to the first open one."""
    left = list(enumerate(calls))
    placed: list[tuple[int, Message]] = []

    def take(result: Message, fits: Callable[[Message, Message], bool]) -> bool:
        found = next((entry for entry in left if fits(entry[1], result)), None)
        if found is None:
            return False
        left.remove(found)
        name = found[1]["function"]["name"]
        placed.append((found[0], {**result, "tool_call_id": found[1]["id"], "name": name}))
        return True

    for fits in (
        lambda call, result: call["id"] == result.get("tool_call_id"),
        lambda call, result: call["function"]["name"] == result.get("name"),
        lambda call, result: True,
    ):
        results = [result for result in results if not take(result, fits)]
    return [result for _, result in sorted(placed, key=lambda entry: entry[0])] + results


def _one_call_each(messages: Messages) -> Iterator[Message]:
    """Split several calls into several messages, each before its result."""
    results = [message for message in messages if message["role"] == "tool"]
    for message in messages:
        calls = message.get("tool_calls") or ()
        if len(calls) < 2:
            if message["role"] != "tool" or message in results:
                yield message
            continue
        for index, call in enumerate(calls):
            yield {**(message if index == 0 else {"role": "assistant", "content": ""}), "tool_calls": [call]}
            for result in [r for r in results if r.get("tool_call_id") == call["id"]]:
                results.remove(result)
                yield result


def _same_turn(last: Message, message: Message) -> bool:
    return bool(
        last["role"] == message["role"] and message["role"] in ("user", "assistant") and not last.get("tool_calls")
    )


def _renamed(message: Message, names: Mapping[str, str]) -> Message:
    renamed = dict(message)
    if "tool_calls" in renamed:
        renamed["tool_calls"] = [{**call, "id": names[call["id"]]} for call in renamed["tool_calls"]]
    if call_id := renamed.get("tool_call_id"):
        renamed["tool_call_id"] = names.get(call_id, _short(call_id))
    return renamed


def _short(call_id: str) -> str:
    if len(call_id) == _SHORT_ID and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:_SHORT_ID]


def _with_text(call: Message) -> Message:
    function = call["function"]
    text = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": text}}


def _joined(*texts: str) -> str:
    return "\n\n".join(filter(None, texts))
