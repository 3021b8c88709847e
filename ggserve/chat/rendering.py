"""Renders a chat to the text of a prompt: with the model's template, or with our own description of tools if it knows
none.

Text of users, tools and documents never becomes a control token: before rendering, the first character of each
look-alike is replaced by a stand-in, which turns back only after the control tokens of the template are found.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ggserve.chat.encoding import Guard
from ggserve.chat.format import ChatFormat, ThoughtState
from ggserve.chat.history import History, checked
from ggserve.chat.own_tools import HERMES
from ggserve.chat.template import ChatTemplate
from ggserve.messages import Document, Tools


@dataclass(frozen=True)
class Chat:
    """The parts that make a prompt."""

    messages: Sequence[Mapping[str, Any]]  # with role and content
    tools: Tools | None = None
    begun: str = ""  # format of the answer
    begun_thought: str = ""
    documents: tuple[Document, ...] = ()  # documents that it quotes, for citations
    shows_documents: bool = False  # the messages contain them already
    template: str | None = None  # the source of its template; None: the model's
    template_arguments: Mapping[str, Any] = field(default_factory=dict)  # variables of its template

    @property
    def quiet(self) -> "Chat":
        """Return the same chat for an answer without a thought."""
        return replace(self, template_arguments={**self.template_arguments, "enable_thinking": False})


@dataclass(frozen=True)
class RenderedChat:
    """The text of a prompt. `stand_ins` (as for `str.translate`) turn back what only looked like control tokens."""

    text: str
    stand_ins: Mapping[int, str]
    state: ThoughtState | None  # the state in which it leaves the model; None: in the middle of an answer's text
    images: Sequence[str] = ()  # data URLs, in the order of their markers

    @property
    def shown(self) -> str:
        """The text as people read it."""
        return self.text.translate(dict(self.stand_ins))


class ChatRenderer:
    """Renders chats with one template, whose answers have the format `form`. `own_tools`: the renderer describes tools
    itself, because the template does not."""

    def __init__(self, template: ChatTemplate, form: ChatFormat, control_texts: Sequence[str]) -> None:
        self.template = template
        self.form = form if form.calls else replace(form, calls=HERMES)
        self.own_tools = form.calls is None
        self._guard = Guard(control_texts)

    def render(self, chat: Chat, marker: str = "") -> RenderedChat:
        """Return the prompt up to the beginning of the answer, or with what it has `begun`. `marker` is for images.
        Raises TemplateError, or InvalidRequest for invalid messages."""
        form = self.form
        tools = [_described(tool) for tool in chat.tools.functions] if chat.tools else None
        messages = checked(chat.messages)
        variables = self._switched(chat.template_arguments)
        used = [messages, tools, chat.begun, chat.begun_thought, variables]
        stand_ins, guarded = self._guard.stand_ins(used)
        history = History(form, marker)
        tools = guarded(tools)
        if self.own_tools:
            told, tools = history.arranged(guarded(messages), tools or []), None
        else:
            told = history.arranged(guarded(messages))
        text = self.template.render(told, tools=tools, variables=guarded(variables))
        state = form.thought.state(text) if form.thought else "free"
        if variables.get("enable_thinking") is False and state != "closed" and not chat.begun_thought:
            text, state = self._without_thought(text, state, calls=bool(chat.tools))
        if chat.begun or chat.begun_thought:
            return self._begun(text, state, guarded(chat.begun_thought), guarded(chat.begun), stand_ins, history.images)
        return RenderedChat(text, stand_ins, state, history.images)

    def continued(self, rendered: RenderedChat, begun: str, markers: Sequence[str]) -> RenderedChat:
        """Return the prompt with the beginning of its answer, in which only `markers` are control tokens."""
        guard = self._guard.again(rendered.stand_ins)
        parts = re.split(f"({'|'.join(re.escape(marker) for marker in markers if marker)})", begun)
        text = "".join(part if number % 2 else guard(part) for number, part in enumerate(parts))
        return replace(rendered, text=rendered.text + text)

    def _switched(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the template's variables, including its own switch for thinking."""
        thought, thinks = self.form.thought, given.get("enable_thinking")
        switch = {} if thought is None or thinks is None else (thought.on if thinks else thought.off) or {}
        effort = given.get("reasoning_effort")
        return {**({"reasoning_strength": effort} if effort else {}), **given, **switch}

    def _without_thought(self, text: str, state: ThoughtState, *, calls: bool) -> tuple[str, ThoughtState]:
        """Return the prompt of an answer without thinking, for a template that has no switch for it. A model that
        thinks only on request needs none."""
        thought = self.form.thought
        if thought is None or (state == "free" and thought.on):
            return text, state
        if state == "open":
            return text + thought.close, "closed"
        if self.form.text_open and not calls:
            return text + self.form.text_open, "closed"
        return text + (thought.none or thought.open + thought.close), "closed"

    def _begun(
        self,
        text: str,
        state: ThoughtState,
        begun_thought: str,
        begun: str,
        stand_ins: Mapping[int, str],
        images: Sequence[str],
    ) -> RenderedChat:
        """Return the prompt with the beginning of the answer: a thought, which text closes."""
        thought = self.form.thought
        if thought is not None and begun_thought:
            text += ("" if state == "open" else thought.open) + begun_thought
            state = "open"
        if not begun:
            return RenderedChat(text, stand_ins, state, images)
        if thought is not None and state == "open":
            text += thought.close
        text_open = "" if text.endswith(self.form.text_open) else self.form.text_open
        return RenderedChat(text + text_open + begun, stand_ins, None, images)


def _described(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool with every field that templates look for."""
    function = tool["function"]
    parameters = {"type": "object", "properties": {}, **(function.get("parameters") or {})}
    described = {**function, "description": function.get("description") or "", "parameters": parameters}
    return {**tool, "type": "function", "function": described}
