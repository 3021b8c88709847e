"""The renderers of one model: its template, and the one for chats with tools where the file has one of its own."""

import logging
from collections.abc import Iterable, Sequence

from ggserve.chat.reading import read_format
from ggserve.chat.rendering import Chat, ChatRenderer
from ggserve.chat.template import ChatTemplate

log = logging.getLogger("ggserve.model")

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
        self.main = _renderer(template, control_texts)
        self._with_tools = _renderer(with_tools, control_texts) if with_tools else self.main
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


def _renderer(template: ChatTemplate, control_texts: Sequence[str]) -> ChatRenderer:
    form = read_format(template)
    missing = [what for what, found in (("thoughts", form.thought), ("tool calls", form.calls)) if not found]
    if missing:
        log.info(
            "the chat template shows no %s that can be read off it%s",
            " and no ".join(missing),
            "" if form.calls else ": tools are told in our own words",
        )
    return ChatRenderer(template, form, control_texts)
