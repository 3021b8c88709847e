"""Texts and chats to token ids and back, for one model: with our tokenizer and template, or with the engine's own.

The engine's is for files whose vocabulary we cannot read exactly. It answers in about a millisecond and blocks
for that long, and it cannot tell a template's special tokens from a user's look-alikes.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, Protocol

from ggserve.chat.encoding import encode_chat, with_beginning
from ggserve.chat.template import ChatTemplate
from ggserve.chat.tool_calls.history import with_parsed_arguments
from ggserve.modelfile.token_spelling import to_raw
from ggserve.tokenizer.tokenizer import Tokenizer
from ggserve.tokenizer.vocabulary import Metadata

_UNKNOWN = "\ufffd".encode()
_BYTE_TOKEN = re.compile(rb"<0x[0-9A-F]{2}>")
_NORMALIZED = 4  # characters that normalization may make one of
_LONGEST_WORD = 10_000  # characters


class EngineTokenizer(Protocol):
    """What an engine with a tokenizer of its own offers."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...
    def detokenize(self, ids: Sequence[int]) -> str: ...
    def token_bytes(self, ids: Sequence[int]) -> list[bytes]: ...
    def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None = None,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> str: ...


class Codec:
    """Our tokenizer and template."""

    blocks = False

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate, make_tool_template: Callable[[], ChatTemplate]
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._make_tool_template = make_tool_template
        self.template_source = template.source
        self.stop = tuple(template.stop)  # texts that end an answer
        self.end_ids = tokenizer.end_ids  # tokens that do
        self.token_pieces = tokenizer.pieces  # by token id, the bytes that the token adds to a text
        self.longest_token = tokenizer.longest_token  # characters that one can stand for
        self.special_tokens = {
            "bos_token": tokenizer.token_text(tokenizer.bos_id) or None,
            "eos_token": tokenizer.token_text(tokenizer.eos_id) or None,
        }

    @property
    def beginning(self) -> list[int]:
        """What the model wants before every text: BOS, or nothing."""
        tokenizer = self._tokenizer
        return [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a text to continue; for an empty one the token that starts texts."""
        tokenizer = self._tokenizer
        start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
        return tokenizer.encode_prompt(text) or [start or 0]

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return self._tokenizer.encode(text, add_special=add_special, parse_special=parse_special)

    def encode_middle(self, text: str) -> list[int]:
        """Ids of a text in the middle of an answer, of which nothing can become a control token."""
        return self._tokenizer.encode_middle(text)

    def encode_chat(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        begun: str = "",
        template_arguments: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Ids of a chat, up to where the assistant's answer begins, or has `begun`. `template_arguments` are variables
        of the template, as `enable_thinking`. Raises TemplateError."""
        template = self._tool_template if tools or any(m.get("tool_calls") for m in messages) else self._template
        messages = with_parsed_arguments(messages)
        return encode_chat(
            template, self._tokenizer, messages, tools=tools, begun=begun, variables=template_arguments or {}
        )

    @cached_property
    def _tool_template(self) -> ChatTemplate:
        """The template for chats with tools; compiled when the first comes."""
        return self._make_tool_template()

    def render(self, messages: list[dict[str, Any]]) -> str:
        """The same as text, in which look-alikes cannot be told from special tokens. Raises TemplateError."""
        return self._template.render(messages)

    def decode(self, ids: Sequence[int], *, skip_special: bool) -> str:
        return self._tokenizer.decode(ids, skip_special=skip_special)

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes of each token, control tokens as the file spells them."""
        return [self._tokenizer.piece(token) for token in ids]


class EngineCodec:
    """The engine's tokenizer and template. Chats go to the engine as messages."""

    blocks = True
    stop: tuple[str, ...] = ()
    template_source: str | None = None  # the engine's business

    def __init__(self, engine: EngineTokenizer, metadata: Metadata) -> None:
        self._engine = engine
        self._start_id = int(metadata.get("tokenizer.ggml.bos_token_id", 0))
        tokens = metadata.get("tokenizer.ggml.tokens")
        self._tokens: list[bytes] = tokens
        ids = {role: metadata.get(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "eos")}
        self.special_tokens: dict[str, str | None] = {
            f"{role}_token": tokens[token].decode("utf-8", "replace")
            if token is not None and 0 <= token < len(tokens)
            else None
            for role, token in ids.items()
        }
        self.longest_token = _NORMALIZED * max(map(len, tokens))
        if metadata.get("tokenizer.ggml.model") == "bert":  # gives up on a long word: one token, whatever its length
            self.longest_token = max(self.longest_token, _LONGEST_WORD)

    @property
    def beginning(self) -> list[int]:
        return self._engine.tokenize("", add_special=True, parse_special=False)[:1]

    def encode_prompt(self, text: str) -> list[int]:
        return self._engine.tokenize(text, add_special=True, parse_special=True) or [self._start_id]

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return self._engine.tokenize(text, add_special=add_special, parse_special=parse_special)

    def encode_middle(self, text: str) -> list[int]:
        return self._engine.tokenize(text, add_special=False, parse_special=False)

    def encode_chat(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        begun: str = "",
        template_arguments: Mapping[str, Any] | None = None,
    ) -> list[int]:
        with_parsed_arguments(messages)  # raises where they are nested too deep
        text = with_beginning(self._engine.render(messages, tools, template_arguments), begun)
        return self._engine.tokenize(text, add_special=True, parse_special=True)

    def render(self, messages: list[dict[str, Any]]) -> str:
        with_parsed_arguments(messages)  # as above
        return self._engine.render(messages)

    def decode(self, ids: Sequence[int], *, skip_special: bool) -> str:
        return self._engine.detokenize(ids)

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        pieces = self._engine.token_bytes(ids)
        return [self._raw(token) if _UNKNOWN in piece else piece for token, piece in zip(ids, pieces, strict=True)]

    def _raw(self, token: int) -> bytes:
        """The bytes of a token that are no whole characters, which the engine cannot tell."""
        text = self._tokens[token]
        if _BYTE_TOKEN.fullmatch(text):
            return bytes([int(text[3:5], 16)])
        with suppress(ValueError):
            return to_raw(text)
        return text
