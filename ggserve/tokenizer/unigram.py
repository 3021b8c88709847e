"""Unigram tokenization (Replit): the segmentation of a text into tokens with the highest sum of scores.

A space is written `▁`; nothing is put in front of a text. A character without a token becomes its UTF-8 bytes if the
vocabulary has byte tokens, else the unknown token.
"""

from tokenizers import Tokenizer as HFTokenizer
from tokenizers.models import Unigram

from ggserve.errors import ModelFileError
from ggserve.modelfile.token_spelling import TokenType
from ggserve.tokenizer.bpe import byte_token_value
from ggserve.tokenizer.vocabulary import Metadata, Vocabulary, token_array

_SPACE = "▁"


def leaves_spaces(metadata: Metadata) -> bool:
    """Return whether a file with a T5 vocabulary keeps spaces as they are. T5 itself changes them."""
    flags = (metadata.get(f"tokenizer.ggml.{key}") for key in ("add_space_prefix", "remove_extra_whitespaces"))
    return all(flag is False for flag in flags) and metadata.get("tokenizer.ggml.precompiled_charsmap") is None


class UnigramEncoder:
    """Encodes plain text to ids. `pieces` has the bytes of each id."""

    def __init__(self, metadata: Metadata) -> None:
        self.vocabulary = vocabulary = Vocabulary.from_metadata(metadata, default_ids={"unknown": 0}, add_bos=False)
        scores = token_array(metadata, "scores", len(vocabulary.texts))
        if scores is None or vocabulary.unk_id is None:
            raise ModelFileError("the file has a unigram vocabulary without scores or without an unknown token")
        # a run of unknown characters becomes one unknown token
        self.shrinks = 1 if TokenType.BYTE in vocabulary.types else 1000
        self.pieces: list[bytes] = []
        self._bytes: dict[int, int] = {}
        entries: list[tuple[str, float]] = []
        for token_id, (text, kind) in enumerate(zip(vocabulary.texts, vocabulary.types, strict=True)):
            word, piece = f"\0{token_id}", b""  # a string that no text contains: control tokens never come from text
            if kind in (TokenType.NORMAL, TokenType.USER_DEFINED):
                word = text.decode("utf-8", "replace")
                piece = word.replace(_SPACE, " ").encode()
            elif kind == TokenType.BYTE:
                piece = byte_token_value(text.decode("utf-8", "replace"))
                self._bytes[piece[0]] = token_id
            self.pieces.append(piece)
            entries.append((word, float(scores[token_id])))
        try:
            self._unigram = HFTokenizer(Unigram(entries, vocabulary.unk_id, byte_fallback=False))
        except Exception as error:  # the library's only exception type
            raise ModelFileError(f"the unigram vocabulary cannot be used: {error}") from None

    def encode(self, text: str, *, starts: bool) -> list[int]:
        """Return the ids of a text. `starts` (only special tokens precede the text) has no effect here."""
        text = text.replace(" ", _SPACE).replace("\0", "\ufffd")
        encoding = self._unigram.encode_batch([text], add_special_tokens=False)[0]  # the batch call releases the GIL
        ids: list[int] = []
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token_id == self.vocabulary.unk_id and self._bytes:
                ids += [self._bytes.get(byte, token_id) for byte in text[start:end].encode()]
            else:
                ids.append(token_id)
        return ids

    def decode_start(self, text: str) -> str:
        return text
