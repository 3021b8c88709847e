"""The renderers of one model: its template, and the one for chats with tools where the file has one of its own."""

from collections.abc import Iterable, Sequence

from ggserve.chat.reading import read_format
from ggserve.chat.rendering import Chat, ChatRenderer
from ggserve.chat.template import ChatTemplate

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
        literals = "\0".join(
            literal for renderer in {self.main, self._with_tools} for literal in renderer.form.literals()
        )
        ends = frozenset(end_texts)
        # Control tokens that are part of thoughts and calls: answers must show them.
        self.shown_controls = tuple(text for text in control_texts if text in literals and text not in ends)

    def of(self, chat: Chat) -> ChatRenderer:
        """The renderer of a chat."""
        calls = chat.tools is not None or any(message.get("tool_calls") for message in chat.messages)
        return self._with_tools if calls else self.main

    @property
    def notes(self) -> str:
        """What could not be read off the templates, in a line."""
        missing = [] if self.main.form.thought else ["thoughts"]
        if self._with_tools.own_tools:
            missing.append("tool calls (ggserve's own format is used)")
        return f"the chat template has no known format for {' and '.join(missing)}" if missing else ""
