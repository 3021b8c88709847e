"""Byte-level BPE (GPT-2, Falcon, Llama 3, SmolLM, ...): the tokenizer model that GGUF calls `gpt2`.

Merges use GPT-2's byte alphabet: one printable character for each of the 256 bytes. Files spell ordinary tokens in that
alphabet or as raw bytes; both give the same ids here.
"""

import codecs
from collections.abc import Iterable, Iterator

from tokenizers import Regex
from tokenizers import Tokenizer as HFTokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

from ggserve.errors import ModelFileError
from ggserve.modelfile.token_spelling import ALPHABET, TokenType
from ggserve.tokenizer.pretokenizers import find_pretokenizer
from ggserve.tokenizer.vocabulary import Metadata, Vocabulary

BYTE_ALPHABET = "".join(ALPHABET)  # character b stands for byte b
# Characters encoded at once. The regular expression engine panics after ten million steps.
_MAX_LENGTH = 4_000_000
_TO_BYTE = codecs.charmap_build(BYTE_ALPHABET)


class BytePairEncoder:
    """Encodes plain text to ids. `pieces` has the bytes of each id."""

    def __init__(self, metadata: Metadata) -> None:
        pretokenizer = find_pretokenizer(metadata)
        self.vocabulary = Vocabulary.from_metadata(
            metadata, default_ids={}, add_bos=pretokenizer.add_bos, end_of_text=b"<|endoftext|>"
        )
        words = self._words()
        self.pieces = self._pieces(words)
        ids = dict(zip(words, range(len(words)), strict=True))
        for text, token_id in self.vocabulary.of_type(TokenType.CONTROL, TokenType.UNKNOWN).items():
            if ids.get(text) == token_id:
                del ids[text]  # no merge of ordinary text produces it
        # Some vocabularies lack rare bytes. A placeholder keeps their neighbors from merging and is removed afterwards.
        for byte in set(BYTE_ALPHABET) - ids.keys():
            ids[byte] = len(words)
        self._bpe = HFTokenizer(
            BPE(ids, merge_pairs(metadata, ids, self._plain()), ignore_merges=pretokenizer.ignore_merges)
        )
        if pretokenizer.nfc:
            self._bpe.normalizer = NFC()
        self.shrinks = 4 if pretokenizer.nfc else 1
        self._bpe.pre_tokenizer = Sequence(
            [Split(Regex(pattern), "isolated") for pattern in pretokenizer.patterns]
            + [ByteLevel(add_prefix_space=False, use_regex=False)]
        )

    def encode(self, text: str, *, starts: bool) -> list[int]:
        """Return the ids of a text. `starts` (only special tokens precede the text) has no effect on byte-level BPE."""
        ids: list[int] = []
        for start in range(0, len(text), _MAX_LENGTH):
            # Only the batch call releases the GIL.
            ids += self._bpe.encode_batch_fast([text[start : start + _MAX_LENGTH]], add_special_tokens=False)[0].ids
        n_tokens = len(self.pieces)
        return ids if max(ids, default=0) < n_tokens else [i for i in ids if i < n_tokens]

    def decode_start(self, text: str) -> str:
        return text

    def _words(self) -> list[str]:
        """Return every token's text, ordinary tokens in the byte alphabet."""
        texts = self.vocabulary.texts
        joined = b"\n".join(texts)
        # Raw tokens spell the space as itself, alphabet tokens as U+0120; few tokens contain the other one.
        if joined.count(b" ") <= joined.count(BYTE_ALPHABET[ord(" ")].encode()):
            words = joined.decode("utf-8", "replace").split("\n")  # all at once, which is much faster
            if len(words) == len(texts):
                return words
            return [text.decode("utf-8", "replace") for text in texts]
        words = [codecs.charmap_decode(text, "strict", BYTE_ALPHABET)[0] for text in texts]
        for token_id in self.vocabulary.special_ids:
            words[token_id] = texts[token_id].decode("utf-8", "replace")
        return words

    def _plain(self) -> Iterator[bytes]:
        """Yield the bytes of the ordinary tokens."""
        special = set(self.vocabulary.special_ids)
        return (piece for token_id, piece in enumerate(self.pieces) if token_id not in special)

    def _pieces(self, words: list[str]) -> list[bytes]:
        try:
            pieces: list[bytes] = [codecs.charmap_encode(word, "strict", _TO_BYTE)[0] for word in words]
        except UnicodeEncodeError:
            pieces = [_word_bytes(word) for word in words]
        for token_id in self.vocabulary.special_ids:
            kind = self.vocabulary.types[token_id]
            if kind == TokenType.BYTE:
                pieces[token_id] = byte_token_value(words[token_id])
            else:
                pieces[token_id] = words[token_id].encode() if kind == TokenType.USER_DEFINED else b""
        return pieces


def _word_bytes(word: str) -> bytes:
    try:
        piece: bytes = codecs.charmap_encode(word, "strict", _TO_BYTE)[0]
    except UnicodeEncodeError:
        return word.encode()  # not in the alphabet: literal text that the file marks as an ordinary token
    return piece


def byte_token_value(text: str) -> bytes:
    """Return the byte of a token spelled like `<0x0A>`."""
    try:
        return bytes([int(text[3:5], 16)])
    except ValueError:
        raise ModelFileError(f"{text!r} is marked as a byte token, but is not spelled like one") from None


def merge_pairs(metadata: Metadata, ids: dict[str, int], plain: Iterable[bytes]) -> list[tuple[str, str]]:
    """Return the pairs to merge, best first. Pairs that name no token are left out, because the library would panic.
    `plain` are the bytes of the ordinary tokens."""
    merges = metadata.get("tokenizer.ggml.merges")
    # A byte-level model needs no merges; any other vocabulary could not build its longer tokens.
    if not isinstance(merges, list) or not (merges or all(len(piece) <= 1 for piece in plain)):
        raise ModelFileError("the file has a BPE vocabulary without merges (tokenizer.ggml.merges)")
    if not merges:
        return []
    halves = b" ".join(merges).decode("utf-8", "replace").split(" ")
    if len(halves) != 2 * len(merges):
        raise ModelFileError("tokenizer.ggml.merges contains an entry that is not a pair of tokens")
    pairs = zip(halves[::2], halves[1::2], strict=True)
    return [pair for pair in pairs if pair[0] in ids and pair[1] in ids and pair[0] + pair[1] in ids]
