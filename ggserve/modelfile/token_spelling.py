"""The two spellings of byte-level BPE tokens in GGUF files: raw bytes (autumn 2023) or GPT-2's byte alphabet.

Only plain tokens (type NORMAL) use the alphabet. Control, user-defined and all other tokens are literal UTF-8 in both
spellings. Bytes and alphabet map one to one, so each spelling can be converted to the other.
"""

from collections.abc import Iterator
from enum import IntEnum

from ggserve.modelfile.gguf import GGUFFile


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`, numbered as in the file."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def _alphabet() -> list[str]:
    # GPT-2's encoder: printable Latin-1 characters stand for themselves, other bytes are numbered from U+0100.
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


ALPHABET = _alphabet()
"""The character that stands for each byte."""
_BYTES = {ord(character): byte for byte, character in enumerate(ALPHABET)}
_SPACE = ALPHABET[ord(" ")].encode()


def to_raw(token: bytes) -> bytes:
    """Return the bytes that a token in the alphabet (as UTF-8) stands for. Raises ValueError if it has other
    characters."""
    try:
        return bytes(map(_BYTES.__getitem__, map(ord, token.decode())))
    except KeyError as error:
        raise ValueError(f"{chr(error.args[0])!r} is not in the byte alphabet") from None


def to_alphabet(raw: bytes) -> bytes:
    """Return raw bytes in the alphabet (as UTF-8): the inverse of `to_raw`."""
    return "".join(map(ALPHABET.__getitem__, raw)).encode()


def plain_tokens(gguf: GGUFFile) -> Iterator[tuple[int, bytes]]:
    """Return id and text of every token of the BPE itself; of every token if the file has no token types."""
    tokens = gguf.get("tokenizer.ggml.tokens", [])
    types = gguf.get("tokenizer.ggml.token_type")
    ids = range(len(tokens)) if types is None else (types == TokenType.NORMAL).nonzero()[0].tolist()
    return zip(ids, map(tokens.__getitem__, ids), strict=True)


def has_raw_tokens(gguf: GGUFFile) -> bool:
    """Return whether a BPE vocabulary's tokens are raw bytes.

    They are if a plain token is a line feed and more plain tokens start with a space than with the character that
    stands for it. (A line feed alone proves nothing: some vocabularies have it as an added token.)
    """
    plain = [token for _, token in plain_tokens(gguf)]
    joined = b"\0".join([b"", *plain])  # many times faster than testing each token
    return b"\n" in plain and joined.count(b"\0 ") > joined.count(b"\0" + _SPACE)
