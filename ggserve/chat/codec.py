"""Encodes texts and rendered chats to token ids, and decodes them, for one model: with our tokenizer or the engine's.

The engine's tokenizer is for files whose vocabulary we cannot read exactly. It answers in about a millisecond and
blocks for that long.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from ggserve.modelfile.token_spelling import to_raw
from ggserve.tokenizer.tokenizer import Tokenizer
from ggserve.tokenizer.vocabulary import Metadata, control_tokens

_UNKNOWN = "\ufffd".encode()
_BYTE_TOKEN = re.compile(rb"<0x[0-9A-F]{2}>")
_NORMALIZED = 4  # characters that normalization may turn into one
_LONGEST_WORD = 10_000  # characters


class EngineTokenizer(Protocol):
    """The interface of an engine with its own tokenizer."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...
    def detokenize(self, ids: Sequence[int]) -> str: ...
    def token_bytes(self, ids: Sequence[int]) -> list[bytes]: ...


class Codec:
    """Our tokenizer."""

    blocks = False

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.control_texts = tuple(tokenizer.control_tokens)  # control tokens that no message may become
        self.end_texts = tuple(tokenizer.token_text(token) for token in tokenizer.end_ids)
        self.end_ids = tokenizer.end_ids  # tokens that templates may become
        self.longest_token = tokenizer.longest_token  # characters that a stand-in can stand for
        self.special_tokens = {
            "bos_token": tokenizer.token_text(tokenizer.bos_id) or None,
            "eos_token": tokenizer.token_text(tokenizer.eos_id) or None,
        }

    @property
    def beginning(self) -> list[int]:
        """The tokens before every text: BOS, or none."""
        tokenizer = self._tokenizer
        return [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a text to continue; for an empty one, the token that starts texts."""
        tokenizer = self._tokenizer
        start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
        return tokenizer.encode_prompt(text) or [start or 0]

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return self._tokenizer.encode(text, add_special=add_special, parse_special=parse_special)

    def encode_middle(self, text: str) -> list[int]:
        """Return the ids of a text in the middle of an answer. Nothing in it can become a control token."""
        return self._tokenizer.encode_middle(text)

    def encode_rendered(self, text: str, stand_ins: Mapping[int, str]) -> list[int]:
        """Return the ids of a chat's prompt. Its control tokens are tokens; what `stand_ins` stand for is text. BOS is
        added if the model wants it and the template did not write it."""
        return self._tokenizer.encode_prompt(text, stand_ins=stand_ins)

    def decode(self, ids: Sequence[int], *, skip_special: bool) -> str:
        return self._tokenizer.decode(ids, skip_special=skip_special)

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """Return the bytes of each token, with control tokens as the file spells them."""
        return [self._tokenizer.piece(token) for token in ids]


class EngineCodec:
    """The engine's tokenizer."""

    blocks = True

    engine: EngineTokenizer  # set once it is loaded

    def __init__(self, metadata: Metadata) -> None:
        self.control_texts = tuple(control_tokens(metadata))
        longest_first = sorted(self.control_texts, key=len, reverse=True)
        self._controls = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
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
        named = (metadata.get(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot", "eom"))
        self.end_texts = tuple(
            tokens[token].decode("utf-8", "replace")
            for token in named
            if token is not None and 0 <= token < len(tokens)
        )
        self.longest_token = _NORMALIZED * max(map(len, tokens))
        if metadata.get("tokenizer.ggml.model") == "bert":  # gives up on a long word: one token, whatever its length
            self.longest_token = max(self.longest_token, _LONGEST_WORD)

    @property
    def beginning(self) -> list[int]:
        return self.engine.tokenize("", add_special=True, parse_special=False)[:1]

    def encode_prompt(self, text: str) -> list[int]:
        return self.engine.tokenize(text, add_special=True, parse_special=True) or [self._start_id]

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return self.engine.tokenize(text, add_special=add_special, parse_special=parse_special)

    def encode_middle(self, text: str) -> list[int]:
        return self.engine.tokenize(text, add_special=False, parse_special=False)

    def encode_rendered(self, text: str, stand_ins: Mapping[int, str]) -> list[int]:
        if not any(chr(code) in text for code in stand_ins):
            return self.engine.tokenize(text, add_special=True, parse_special=True)
        ids = list(self.beginning)
        for number, part in enumerate(self._controls.split(text)):
            if part:
                plain = part.translate(dict(stand_ins))
                found = self.engine.tokenize(plain, add_special=False, parse_special=bool(number % 2))
                ids += found[1:] if ids == found[:1] == self.beginning else found
        return ids

    def decode(self, ids: Sequence[int], *, skip_special: bool) -> str:
        return self.engine.detokenize(ids)

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        pieces = self.engine.token_bytes(ids)
        return [self._raw(token) if _UNKNOWN in piece else piece for token, piece in zip(ids, pieces, strict=True)]

    def _raw(self, token: int) -> bytes:
        """Return the bytes of a token with incomplete characters, which the engine cannot return."""
        text = self._tokens[token]
        if _BYTE_TOKEN.fullmatch(text):
            return bytes([int(text[3:5], 16)])
        with suppress(ValueError):
            return to_raw(text)
        return text
