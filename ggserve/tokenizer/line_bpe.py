"""BPE over whole lines (Gemma 4): the tokenizer model that GGUF calls `gemma4`.

Merges work on characters, including spaces, which are written `▁`. A character without a token becomes its UTF-8 bytes.
A run of line feeds that is a token stays one.
"""

import re

from tokenizers import Tokenizer as HFTokenizer
from tokenizers.models import BPE

from ggserve.modelfile.token_spelling import TokenType
from ggserve.tokenizer.bpe import byte_token_value, merge_pairs
from ggserve.tokenizer.vocabulary import Metadata, Vocabulary

_SPACE = "▁"
_LINES = re.compile(r"\n+|[^\n]+")
_BATCH = 1000  # lines


class LineEncoder:
    """Encodes plain text to ids. `pieces` has the bytes of each id."""

    shrinks = 1

    def __init__(self, metadata: Metadata) -> None:
        self.vocabulary = vocabulary = Vocabulary.from_metadata(metadata, default_ids={}, add_bos=True)
        vocabulary.add_bos = vocabulary.bos_id is not None  # whatever the file says, as in llama.cpp
        self.pieces: list[bytes] = []
        ids: dict[str, int] = {}
        for token_id, (text, kind) in enumerate(zip(vocabulary.texts, vocabulary.types, strict=True)):
            word, piece = text.decode("utf-8", "replace"), b""
            if kind in (TokenType.NORMAL, TokenType.USER_DEFINED):
                ids[word] = token_id
                piece = text if kind == TokenType.USER_DEFINED else word.replace(_SPACE, " ").encode()
            elif kind == TokenType.BYTE:
                ids[word] = token_id
                piece = byte_token_value(word)
            self.pieces.append(piece)
        self._newlines = {word: token_id for word, token_id in ids.items() if word and not word.strip("\n")}
        plain = (self.pieces[i] for i in ids.values())
        self._bpe = HFTokenizer(BPE(ids, merge_pairs(metadata, ids, plain), byte_fallback=True))

    def encode(self, text: str, *, starts: bool) -> list[int]:
        """Return the ids of a text. `starts` (only special tokens precede the text) has no effect here."""
        lines = _LINES.findall(text.replace(" ", _SPACE))
        ids: list[int] = []
        for start in range(0, len(lines), _BATCH):
            batch = lines[start : start + _BATCH]
            # Only the batch call releases the GIL.
            encoded = self._bpe.encode_batch_fast(batch, add_special_tokens=False)
            for line, encoding in zip(batch, encoded, strict=True):
                newlines = self._newlines.get(line)
                ids += encoding.ids if newlines is None else [newlines]
        return ids

    def decode_start(self, text: str) -> str:
        return text
