"""Text to token ids and back, exactly as in the model's training.

The entry point is `Tokenizer.from_metadata`. This module decides what a special token is and when text can become one;
the algorithms for plain text are in `bpe`, `sentencepiece`, `unigram` and `line_bpe`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Protocol

from ggserve.errors import ModelFileError
from ggserve.modelfile.token_spelling import TokenType
from ggserve.tokenizer.bpe import BytePairEncoder
from ggserve.tokenizer.line_bpe import LineEncoder
from ggserve.tokenizer.sentencepiece import SentencePieceEncoder
from ggserve.tokenizer.unigram import UnigramEncoder, leaves_spaces
from ggserve.tokenizer.vocabulary import Metadata, Vocabulary

_WHITE_SPACE = " \t\n\v\f\r"
_NOT_STRIPPING = {"<unk>", "<s>", "<|endoftext|>"}  # Phi-3's special tokens that keep the white space after them
_SURROGATE = re.compile("[\ud800-\udfff]")


class PlainTextEncoder(Protocol):
    vocabulary: Vocabulary
    pieces: list[bytes]
    shrinks: int  # maximum characters that normalization or the unknown token turns into one

    def encode(self, text: str, *, starts: bool) -> list[int]: ...
    def decode_start(self, text: str) -> str: ...


class Tokenizer:
    """The tokenizer of one model.

    `pieces[id]` is the bytes that a token adds to a generated text, b"" for control tokens. `end_ids` are the tokens
    that end a model's turn. `control_tokens` maps the text of each control token to its id; text becomes one only on
    request.
    """

    def __init__(self, encoder: PlainTextEncoder, *, right_stripped: frozenset[str] = frozenset()) -> None:
        """Build the tokenizer from its encoder. `right_stripped`: special tokens that swallow the white space to their
        right."""
        vocabulary = encoder.vocabulary
        self._encoder = encoder
        self._texts = vocabulary.texts
        self.pieces = encoder.pieces
        self.vocab_size = len(vocabulary.texts)
        self.longest_token = encoder.shrinks * max(map(len, vocabulary.texts))  # maximum characters per token
        self.bos_id = vocabulary.bos_id
        self.eos_id = vocabulary.eos_id
        self.unk_id = vocabulary.unk_id
        self.add_bos = vocabulary.add_bos
        self.add_eos = vocabulary.add_eos
        self.end_ids = vocabulary.end_ids
        self.control_tokens = vocabulary.of_type(TokenType.CONTROL, TokenType.UNKNOWN)
        self._user_defined = vocabulary.of_type(TokenType.USER_DEFINED)
        self._right_stripped = right_stripped

    @classmethod
    def from_metadata(cls, metadata: Metadata) -> "Tokenizer":
        """Build the tokenizer that a GGUF file describes. Raises ModelFileError if it cannot be reproduced exactly."""
        match metadata.get("tokenizer.ggml.model"):
            case "gpt2":
                return cls(BytePairEncoder(metadata))
            case "gemma4":
                return cls(LineEncoder(metadata))
            case "llama":
                return cls(SentencePieceEncoder(metadata), right_stripped=_right_stripped(metadata))
            case "replit":
                return cls(UnigramEncoder(metadata))
            case "t5" if leaves_spaces(metadata):
                return cls(UnigramEncoder(metadata))
            case None:
                raise ModelFileError("the file has no tokenizer (tokenizer.ggml.model)")
            case other:
                raise ModelFileError(
                    f"tokenizer model {other!r} is not supported; known: 'gemma4', 'gpt2', 'llama', 'replit'"
                )

    def token_text(self, token_id: int | None) -> str:
        """Return a token as the file and chat templates spell it, special tokens included; "" for None."""
        return "" if token_id is None else self._texts[token_id].decode("utf-8", "replace")

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Return the ids of a text. `add_special` adds BOS and EOS if the model uses them and they are missing.
        `parse_special` lets the text of a control token become that token."""
        ids = self.encode_prompt(text, parse_special=parse_special, add_bos=add_special)
        if add_special and self.add_eos and self.eos_id is not None and ids[-1:] != [self.eos_id]:
            ids.append(self.eos_id)
        return ids

    def encode_prompt(
        self,
        text: str,
        *,
        parse_special: bool = True,
        add_bos: bool = True,
        stand_ins: Mapping[int, str] | None = None,
    ) -> list[int]:
        """Return the ids of a prompt, without EOS. `stand_ins` (as in `str.translate`) are placeholder characters that
        are replaced after control tokens have been found, so that their text cannot become part of one."""
        ids: list[int] = []
        starts = True
        specials = self._all_specials if parse_special else self._always_specials
        for part in self._parts(_SURROGATE.sub("\ufffd", text), specials, stand_ins):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._encoder.encode(part, starts=starts)
            starts = isinstance(part, int)
        if add_bos and self.add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        return ids

    def encode_middle(self, text: str) -> list[int]:
        """Return the ids of a text in the middle of an answer. Nothing in it becomes a hidden control token."""
        ids: list[int] = []
        for part in self._parts(_SURROGATE.sub("\ufffd", text), self._answer_specials, None):
            ids += [part] if isinstance(part, int) else self._encoder.encode(part, starts=False)
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Return the text of a whole sequence. For generated text, which continues a prompt, join `pieces` instead (a
        SentencePiece prompt starts with a space that is not part of the text)."""
        pieces = [self._shown(i, skip_special) for i in ids]
        return self._encoder.decode_start(b"".join(pieces).decode("utf-8", "replace"))

    def piece(self, token_id: int) -> bytes:
        """Return the bytes of one token; a control token as the file spells it."""
        return self._shown(token_id, False)

    def _shown(self, token_id: int, skip_special: bool) -> bytes:
        piece = self.pieces[token_id]
        return piece if piece or skip_special else self._texts[token_id]

    def show(self, controls: Iterable[str]) -> None:
        """Make these control tokens, if they exist, visible in answers as text."""
        shown = {text: self.control_tokens[text] for text in controls if text in self.control_tokens}
        if shown:
            texts = {token: text.encode() for text, token in shown.items()}
            self.pieces = [texts.get(token, piece) for token, piece in enumerate(self.pieces)]
            self._answer_specials = _any_of(shown.keys() | self._user_defined.keys())

    def _parts(
        self, text: str, specials: re.Pattern[str] | None, stand_ins: Mapping[int, str] | None
    ) -> Iterator[str | int]:
        """Yield the ids of special tokens and the plain text between them."""
        if stand_ins:
            for part in self._parts(text, specials, None):
                if isinstance(part, int):
                    yield part
                else:
                    yield from self._parts(part.translate(stand_ins), self._always_specials, None)
            return
        if specials is None:
            if text:
                yield text
            return
        strips = False
        for position, part in enumerate(specials.split(text)):
            if position % 2:
                token_id = self.control_tokens.get(part)
                yield self._user_defined[part] if token_id is None else token_id
                strips = part in self._right_stripped
            elif part := part.lstrip(_WHITE_SPACE) if strips else part:
                yield part

    @cached_property
    def _all_specials(self) -> re.Pattern[str] | None:
        return _any_of(self.control_tokens.keys() | self._user_defined.keys())

    @cached_property
    def _answer_specials(self) -> re.Pattern[str] | None:
        return self._always_specials

    @cached_property
    def _always_specials(self) -> re.Pattern[str] | None:
        return _any_of(self._user_defined.keys())


def _right_stripped(metadata: Metadata) -> frozenset[str]:
    """Return Phi-3's special tokens that swallow white space, according to its own tokenizer. GGUF does not contain
    this."""
    name = str(metadata.get("general.name", "")).lower()
    if metadata.get("general.architecture") != "phi3" and not any(each in name for each in ("phi-3", "phi3")):
        return frozenset()
    texts = metadata.get("tokenizer.ggml.tokens")
    types = metadata.get("tokenizer.ggml.token_type", ())
    special = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
    marked = {text.decode("utf-8", "replace") for text, kind in zip(texts, types, strict=False) if kind in special}
    return frozenset(marked | {"</s>"}) - _NOT_STRIPPING


def _any_of(texts: Iterable[str]) -> re.Pattern[str] | None:
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})") if longest_first else None
