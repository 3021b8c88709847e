"""A model file's vocabulary: token texts, their types, and the ids with a role (BOS, EOS, end of turn).

Contains no algorithms: those are in `bpe`, `sentencepiece`, `unigram` and `line_bpe`.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ggserve.errors import ModelFileError
from ggserve.modelfile.token_spelling import TokenType


class Metadata(Protocol):
    """The metadata of a GGUF file; a plain dict works too. String arrays are list[bytes]."""

    def get(self, key: str, default: Any = None, /) -> Any: ...


# Control tokens that end a model's turn, whatever token the file names as EOS.
_END_TEXTS = frozenset(
    [
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<eos>",
        "<turn|>",
        "<|tool_response>",
        "<｜end▁of▁sentence｜>",
        "[e~[",
        # Tokens that end a fill-in-the-middle answer: its own end, padding, or another file.
        "▁<EOT>",
        "<|fim_pad|>",
        "<fim-pad>",
        "<fim_pad>",
        "<|repo_name|>",
        "<|fim_repo|>",
        "<fim-repo>",
        "<reponame>",
        "<|file_sep|>",
    ]
)


@dataclass
class Vocabulary:
    """A vocabulary. `texts[id]` is the token as the file spells it, `types[id]` a TokenType, `special_ids` the ids of
    all tokens that are not ordinary. A role without a token is None."""

    texts: list[bytes]
    types: list[int]
    special_ids: list[int]
    bos_id: int | None
    eos_id: int | None
    unk_id: int | None
    add_bos: bool
    add_eos: bool
    end_ids: frozenset[int]

    @classmethod
    def from_metadata(
        cls,
        metadata: Metadata,
        *,
        default_ids: dict[str, int],
        add_bos: bool,
        end_of_text: bytes | None = None,
    ) -> "Vocabulary":
        """Read `tokenizer.ggml.*`. `default_ids` ("bos", "eos", "unknown") and `add_bos` apply if the file does not
        say; so does the token spelled `end_of_text`, for BOS and EOS."""
        texts = metadata.get("tokenizer.ggml.tokens")
        if not isinstance(texts, list) or not texts:
            raise ModelFileError("the file has no vocabulary (tokenizer.ggml.tokens)")
        types = token_array(metadata, "token_type", len(texts))
        if types is None:
            types = np.full(len(texts), TokenType.NORMAL)
        special = {texts[i]: i for i in np.flatnonzero(np.isin(types, _SPECIAL_TYPES)).tolist()}
        if end_of_text in special:
            default_ids = {"bos": special[end_of_text], "eos": special[end_of_text], **default_ids}

        def role_id(role: str) -> int | None:
            found = metadata.get(f"tokenizer.ggml.{role}_token_id", default_ids.get(role))
            return int(found) if found is not None and 0 <= int(found) < len(texts) else None

        bos, eos = role_id("bos"), role_id("eos")
        end_ids = {special[text.encode()] for text in _END_TEXTS if text.encode() in special}
        # In vocabularies with these pairs, <|end|> ends a part of a message, not the turn.
        if {b"<|return|>", b"<|call|>"} <= special.keys() or {b"<|flush|>", b"<|calls|>"} <= special.keys():
            end_ids.discard(special.get(b"<|end|>", -1))
        roles = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
        end_ids |= {i for i in map(role_id, roles) if i is not None}
        # A user's text must never become such a token, even if the file marks it as ordinary.
        control = [*end_ids, *(i for i in [bos] if i is not None)]
        types = types.astype(np.int64)  # a copy
        types[[i for i in control if types[i] != TokenType.UNKNOWN]] = TokenType.CONTROL
        return cls(
            texts=texts,
            types=types.tolist(),
            special_ids=np.flatnonzero(types != TokenType.NORMAL).tolist(),
            bos_id=bos,
            eos_id=eos,
            unk_id=role_id("unknown"),
            add_bos=bool(metadata.get("tokenizer.ggml.add_bos_token", add_bos)) and bos is not None,
            add_eos=bool(metadata.get("tokenizer.ggml.add_eos_token", False)) and eos is not None,
            end_ids=frozenset(end_ids),
        )

    def of_type(self, *types: TokenType) -> dict[str, int]:
        """Return text to id of all special tokens of these types, except those without text."""
        return {
            self.texts[i].decode("utf-8", "replace"): i
            for i in self.special_ids
            if self.types[i] in types and self.texts[i]
        }


_SPECIAL_TYPES = (TokenType.CONTROL, TokenType.USER_DEFINED)


def token_array(metadata: Metadata, name: str, n_tokens: int) -> np.ndarray[Any, np.dtype[Any]] | None:
    """Return a numeric array with one value per token (`scores`, `token_type`), or None if the file has none."""
    values = metadata.get(f"tokenizer.ggml.{name}")
    if values is None:
        return None
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iuf" or len(array) < n_tokens:
        raise ModelFileError(f"tokenizer.ggml.{name} does not have one number for each of the {n_tokens} tokens")
    return array[:n_tokens]


def control_tokens(metadata: Metadata) -> dict[str, int]:
    """Return text to id of all tokens that a user's text must not become."""
    tokens: list[bytes] = metadata.get("tokenizer.ggml.tokens")
    control = np.isin(metadata.get("tokenizer.ggml.token_type", []), (TokenType.CONTROL, TokenType.UNKNOWN))
    return {tokens[i].decode("utf-8", "replace"): int(i) for i in control.nonzero()[0] if tokens[i]}
