"""The renderers of one model: its template, and the one for chats with tools where the file has one of its own."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

from ggserve.chat.reading import read_format
from ggserve.chat.rendering import Chat, ChatRenderer
from ggserve.chat.template import ChatTemplate

_MOST_GIVEN = 8  # templates of requests that are kept
TOOL_USE = "tool_use"  # the name of a file's template for chats with tools


class ChatRenderers:
    """`main` renders chats without tools."""

    def __init__(
        self,
        template: ChatTemplate,
        with_tools: ChatTemplate | None,
        control_texts: Sequence[str],
        end_texts: Iterable[str],
    ) -> None:
        """`end_texts`: how the tokens that end answers are spelled."""
        self.main = ChatRenderer(template, read_format(template), control_texts)
        tools = ChatRenderer(with_tools, read_format(with_tools), control_texts) if with_tools else None
        self._with_tools = tools or self.main
        self._control_texts = control_texts
        self._of_source = lru_cache(_MOST_GIVEN)(self._read)
        literals = "\0".join(
            literal for renderer in {self.main, self._with_tools} for literal in renderer.form.literals()
        )
        ends = frozenset(end_texts)
        # Control tokens that are part of thoughts and calls: answers must show them.
        self.shown_controls = tuple(text for text in control_texts if text in literals and text not in ends)

    def of(self, chat: Chat) -> ChatRenderer:
        """The renderer of a chat. Blocks where the chat has a template of its own, and raises TemplateError."""
        if chat.template is not None:
            return self._of_source(chat.template)
        calls = chat.tools is not None or any(message.get("tool_calls") for message in chat.messages)
        return self._with_tools if calls else self.main

    def _read(self, source: str) -> ChatRenderer:
        template = self.main.template.with_source(source)
        return ChatRenderer(template, read_format(template), self._control_texts)

    @property
    def notes(self) -> str:
        """What could not be read off the templates, in a line."""
        missing = [] if self.main.form.thought else ["thoughts"]
        if self._with_tools.own_tools:
            missing.append("tool calls, so that tools are told in our own words")
        return f"the chat template shows no {' and no '.join(missing)}" if missing else ""
