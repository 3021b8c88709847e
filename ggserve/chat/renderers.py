"""The renderers of one model: its template, and those that a file has for chats with tools or with documents."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from ggserve.chat.codec import Codec, EngineCodec
from ggserve.chat.named_templates import Template
from ggserve.chat.reading import read_format
from ggserve.chat.rendering import Chat, ChatRenderer
from ggserve.chat.template import ChatTemplate
from ggserve.modelfile.file import ModelFile, chat_template

_MOST_GIVEN = 8  # templates of requests that are kept
# The names of a file's templates for chats with tools, and for chats with documents.
TOOL_USE, RAG = PURPOSES = ("tool_use", "rag")


class ChatRenderers:
    """`main` renders all chats for which there is no template of its own."""

    def __init__(
        self,
        template: ChatTemplate,
        named: Mapping[str, ChatTemplate],
        control_texts: Sequence[str],
        end_texts: Iterable[str],
    ) -> None:
        """`named`: templates by their PURPOSES. `end_texts`: how the tokens that end answers are spelled."""
        self._control_texts = control_texts
        self._of_source = lru_cache(_MOST_GIVEN)(self._read)
        self.main, *others = (
            ChatRenderer(each, read_format(each), control_texts) for each in (template, *named.values())
        )
        self._named = dict(zip(named, others, strict=True))
        literals = "\0".join(literal for renderer in (self.main, *others) for literal in renderer.form.literals())
        ends = frozenset(end_texts)
        # Control tokens that are part of thoughts and calls: answers must show them.
        self.shown_controls = tuple(text for text in control_texts if text in literals and text not in ends)

    def of(self, chat: Chat) -> ChatRenderer:
        """Return the renderer of a chat. If the chat has its own template, blocks and can raise TemplateError."""
        if chat.template is not None:
            return self._of_source(chat.template)
        calls = chat.tools is not None or any(message.get("tool_calls") for message in chat.messages)
        if calls and TOOL_USE in self._named:
            return self._named[TOOL_USE]
        return self._named.get(RAG, self.main) if chat.template_arguments.get("documents") else self.main

    def _read(self, source: str) -> ChatRenderer:
        template = self.main.template.with_source(source)
        return ChatRenderer(template, read_format(template), self._control_texts)

    @property
    def notes(self) -> str:
        """The parts of a chat for which the templates show no known format, in one line; "" if there are none."""
        missing = [] if self.main.form.thought else ["thoughts"]
        if self._named.get(TOOL_USE, self.main).own_tools:
            missing.append("tool calls (ggserve's own format is used)")
        return f"the chat template has no known format for {' and '.join(missing)}" if missing else ""


def renderers_of(file: ModelFile, chosen: Template | None, codec: Codec | EngineCodec) -> ChatRenderers:
    """Return the renderers of a model file. `chosen` replaces its templates. Raises TemplateError."""
    bos, eos = (codec.special_tokens[name] or "" for name in ("bos_token", "eos_token"))
    source, stop = chosen or (chat_template(file), ())
    sources = {} if chosen else {name: chat_template(file, name) for name in PURPOSES}
    named = {name: ChatTemplate(text, bos, eos) for name, text in sources.items() if text}
    return ChatRenderers(ChatTemplate(source, bos, eos, stop), named, codec.control_texts, codec.end_texts)
