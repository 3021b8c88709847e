"""Tokenizer metadata for the vocabulary of a legacy GGML file: tokens, types, scores and merges under GGUF's keys.

The files contain only token texts. Special tokens, byte tokens and the order of merges follow from how each family's
converter wrote them.
"""

import codecs
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ggserve.modelfile.legacy.merges import derive_merges
from ggserve.modelfile.token_spelling import ALPHABET, TokenType, to_alphabet


class Token(NamedTuple):
    """A token as it is in the file. `score` is 0 if the format has no scores."""

    text: bytes
    score: float


_PRE_TOKENIZERS = {
    "gpt2": "gpt-2",
    "gptj": "gpt-2",
    "gptneox": "gpt-neox",
    "dolly-v2": "gpt-neox",
    "mpt": "gpt-neox",
    "starcoder": "starcoder",
    "falcon": "falcon",
}
_END_OF_TEXT = b"<|endoftext|>"
_END_OF_TURN = (b"<|im_end|>", b"<|end|>", b"<|end_of_turn|>", b"### End")
# Control tokens are recognized by their whole text.
_CONTROL = re.compile(
    rb"<\|[^|\s]+\|>|<(?:fim|gh|issue|jupyter|commit)[-_]\w+>|<(?:filename|reponame|empty_output)>"
    rb"|>>[A-Z]+<<|\[(?:PAD|UNK|BOS|EOS)\]|### (?:End|Instruction:|Response:\n?)"
)
_CONTROL_STARTS = frozenset(b"<>[#")
_LLAMA_SPECIALS = {0: b"<unk>", 1: b"<s>", 2: b"</s>"}
_ADDED_SCORE = -1000.0  # given by converters to tokens added after training
_ALPHABET = "".join(ALPHABET)
# Plain numbers, because comparing IntEnum members is slow in a loop over a vocabulary.
_NORMAL, _UNUSED = int(TokenType.NORMAL), int(TokenType.UNUSED)
_CONTROL_KIND, _USER_DEFINED = int(TokenType.CONTROL), int(TokenType.USER_DEFINED)
_REPLACEMENT = "\ufffd".encode()


def tokenizer_metadata(
    family: str, tokens: Sequence[Token], merges: Sequence[tuple[bytes, bytes]] | None
) -> dict[str, Any]:
    """Return `tokenizer.ggml.*` for a vocabulary. `merges` are the file's own, in the byte alphabet, if it has any."""
    if family == "llama":
        return _llama(tokens)
    if family == "replit":
        return _replit(tokens)
    texts = [token.text for token in tokens]
    if family == "mpt":
        texts = [_mpt_bytes(text) for text in texts]
    if family in ("gptneox", "dolly-v2"):
        texts = _restored_bytes(texts)
    return _byte_level(_PRE_TOKENIZERS[family], texts, merges)


def _byte_level(pre: str, texts: list[bytes], merges: Sequence[tuple[bytes, bytes]] | None) -> dict[str, Any]:
    kinds = [_NORMAL] * len(texts)
    for index in _added_spaces(texts):
        kinds[index] = _USER_DEFINED
    first: dict[bytes, int] = {}
    for index, text in enumerate(texts):
        if kinds[index] == _USER_DEFINED:
            first[text] = index
        elif first.setdefault(text, index) != index or not text:
            kinds[index] = _UNUSED  # padding rows of the embedding matrix, or an unreadable token
        elif text[0] in _CONTROL_STARTS and _CONTROL.fullmatch(text):
            kinds[index] = _CONTROL_KIND
    derived, left_over = derive_merges(texts, np.array(kinds) == _NORMAL)
    for index in _added(texts, left_over):
        kinds[index] = _USER_DEFINED
    written = _in_alphabet(merges, first) if merges else None
    if written is None:
        words = [codecs.charmap_decode(text, "strict", _ALPHABET)[0] for text in texts]
        written = [f"{words[left]} {words[right]}".encode() for left, right, _ in derived]
    for index, kind in enumerate(kinds):
        if kind == _UNUSED:
            texts[index] = b"[PAD%d]" % index
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
        "tokenizer.ggml.merges": written,
    }
    end = first.get(_END_OF_TEXT)
    if end is not None:
        metadata |= {f"tokenizer.ggml.{role}_token_id": end for role in ("bos", "eos")}
    turn = next((first[text] for text in _END_OF_TURN if text in first), None)
    if turn is not None:
        metadata["tokenizer.ggml.eot_token_id"] = turn
    return metadata


def _added_spaces(texts: Sequence[bytes]) -> list[int]:
    """Return the ids of GPT-NeoX's runs of spaces, which were added whole, from the longest down to two spaces; merges
    make the same texts."""
    lengths = [0 if text[:1] != b" " or text.strip(b" ") else len(text) for text in texts]
    for last in reversed(range(1, len(lengths))):
        if lengths[last] == 2 and lengths[last - 1] == 3:
            start = last
            while start and lengths[start - 1] == lengths[start] + 1:
                start -= 1
            return list(range(start, last + 1))
    return []


def _added(texts: Sequence[bytes], left_over: Sequence[int]) -> list[int]:
    """Return the ids in `left_over` that were added whole. The others lost bytes in conversion."""
    lossy = any(_REPLACEMENT in text for text in texts)
    return [i for i in left_over if len(texts[i]) > 1 and not (lossy and not texts[i].isascii())]


def _in_alphabet(merges: Sequence[tuple[bytes, bytes]], ids: dict[bytes, int]) -> list[bytes] | None:
    """Return the file's merges, or None if one of them makes no token."""
    words = {codecs.charmap_decode(text, "strict", _ALPHABET)[0].encode() for text in ids}
    if not all(left + right in words for left, right in merges):
        return None
    return [left + b" " + right for left, right in merges]


def _mpt_bytes(text: bytes) -> bytes:
    """Undo MPT's converter, which wrote each byte of a token as the character with that number."""
    try:
        return text.decode().encode("latin-1")
    except UnicodeEncodeError:
        return text


def _restored_bytes(texts: list[bytes]) -> list[bytes]:
    """Undo GPT-NeoX's converter, which decoded each token separately, so that bytes above 127 became U+FFFD.

    The 256 single bytes are in the order of their alphabet characters, so their positions identify them. Longer tokens
    with half a character cannot be restored and become empty.
    """
    in_order = sorted(range(256), key=lambda byte: to_alphabet(bytes([byte])).decode())
    never_in_text = {0xC0, 0xC1, *range(0xF5, 0x100)}
    texts = list(texts)
    for alphabet in (in_order, [byte for byte in in_order if byte not in never_in_text]):
        spelled = [bytes([byte]) if byte < 128 else _REPLACEMENT for byte in alphabet]
        for start in range(min(1024, len(texts) - len(alphabet) + 1)):
            if texts[start] == b"!" and texts[start : start + len(alphabet)] == spelled:
                texts[start : start + len(alphabet)] = [bytes([byte]) for byte in alphabet]
                return [b"" if _REPLACEMENT in text else text for text in texts]
    return texts


def _llama(tokens: Sequence[Token]) -> dict[str, Any]:
    texts = [token.text.replace(b" ", "▁".encode()) for token in tokens]
    types = np.full(len(texts), TokenType.NORMAL, np.int32)
    for index, name in _LLAMA_SPECIALS.items():
        if index < len(texts):
            texts[index] = name
            types[index] = TokenType.CONTROL if index else TokenType.UNKNOWN
    if all(token.text == bytes([byte]) for byte, token in enumerate(tokens[3:259])) and len(tokens) >= 259:
        texts[3:259] = [b"<0x%02X>" % byte for byte in range(256)]
        types[3:259] = TokenType.BYTE
    for index, token in enumerate(tokens):
        if token.score <= _ADDED_SCORE and types[index] == TokenType.NORMAL:
            marker = token.text.startswith((b"<", b"[")) and token.text.endswith((b">", b"]"))
            types[index] = TokenType.CONTROL if marker else TokenType.USER_DEFINED
            texts[index] = token.text
    scores = np.array([token.score for token in tokens], np.float32)
    scores[:259][types[:259] != TokenType.NORMAL] = 0
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": scores,
        **{f"tokenizer.ggml.{role}_token_id": i for role, i in (("unknown", 0), ("bos", 1), ("eos", 2))},
    }


def _replit(tokens: Sequence[Token]) -> dict[str, Any]:
    texts = [token.text for token in tokens]
    types = np.full(len(texts), TokenType.NORMAL, np.int32)
    first: dict[bytes, int] = {}
    for index, text in enumerate(texts):
        if first.setdefault(text, index) != index or not text:
            texts[index] = b"[PAD%d]" % index
            types[index] = TokenType.UNUSED
        elif re.fullmatch(rb"<\|[^|\s]+\|>|<unk>|</?s>|<pad>", text):
            types[index] = TokenType.CONTROL
        elif re.fullmatch(rb"<0x[0-9A-F]{2}>", text):
            types[index] = TokenType.BYTE
    unknown = next((first[text] for text in (b"<|unk|>", b"<unk>") if text in first), 0)
    types[unknown] = TokenType.UNKNOWN
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "replit",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": np.array([token.score for token in tokens], np.float32),
        "tokenizer.ggml.unknown_token_id": unknown,
    }
    end = next((first[text] for text in (_END_OF_TEXT, b"</s>") if text in first), None)
    return metadata if end is None else metadata | {"tokenizer.ggml.eos_token_id": end}
