"""SentencePiece BPE (Llama 1 and 2, Mistral, ...): the tokenizer model that GGUF calls `llama`.

Neighboring characters merge into tokens, the pair with the best score first, the leftmost among equals. A character
without a token becomes its UTF-8 bytes. A space is written `▁`.
"""

import re
from heapq import heapify, heappop, heappush

from ggserve.errors import ModelFileError
from ggserve.modelfile.token_spelling import TokenType
from ggserve.tokenizer.bpe import byte_token_value
from ggserve.tokenizer.vocabulary import Metadata, Vocabulary, token_array

_SPACE = "▁"
_WORD = re.compile(f"{_SPACE}*[^{_SPACE}]*")
_CACHED_WORDS = 20_000
_CACHED_LENGTH = 64  # characters


class SentencePieceEncoder:
    """Encodes plain text to ids. `pieces` has the bytes of each id."""

    shrinks = 1

    def __init__(self, metadata: Metadata) -> None:
        self.vocabulary = vocabulary = Vocabulary.from_metadata(
            metadata, default_ids={"bos": 1, "eos": 2, "unknown": 0}, add_bos=True
        )
        self._space_prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
        scores = token_array(metadata, "scores", len(vocabulary.texts))
        if scores is None:
            raise ModelFileError("the file has a SentencePiece vocabulary without scores (tokenizer.ggml.scores)")
        self.pieces: list[bytes] = []
        self._ranks: dict[str, float] = {}  # the negated score: the lowest merges first
        self._ids: dict[str, int] = {}
        self._byte_ids: dict[int, int] = {}
        for token_id, (text, kind, score) in enumerate(
            zip(vocabulary.texts, vocabulary.types, scores.tolist(), strict=True)
        ):
            piece = b""
            if kind == TokenType.NORMAL or kind == TokenType.USER_DEFINED:
                word = text.decode("utf-8", "replace")
                self._ids[word] = token_id
                self._ranks[word] = -score
                piece = text if kind == TokenType.USER_DEFINED else word.replace(_SPACE, " ").encode()
            elif kind == TokenType.BYTE:
                piece = byte_token_value(text.decode("utf-8", "replace"))
                self._byte_ids[piece[0]] = token_id
            self.pieces.append(piece)
        # If no token has a space after other text, no merge crosses a space, and words are independent.
        inner_space = re.compile(f"[^{_SPACE}\n]{_SPACE}")
        self._words_stand_alone = not inner_space.search("\n".join(self._ids))
        self._cache: dict[str, list[int]] = {}

    def encode(self, text: str, *, starts: bool) -> list[int]:
        """Return the ids of a text. `starts`: only special tokens precede `text`, so a space is put in front of it."""
        if starts and self._space_prefix:
            text = " " + text
        text = text.replace(" ", _SPACE)
        if not self._words_stand_alone:
            return self._merge(text)
        ids: list[int] = []
        for word in _WORD.findall(text):
            known = self._cache.get(word)
            if known is None:
                known = self._merge(word)
                if len(self._cache) < _CACHED_WORDS and len(word) <= _CACHED_LENGTH:
                    self._cache[word] = known
            ids += known
        return ids

    def decode_start(self, text: str) -> str:
        """Remove the space that `encode` puts in front."""
        return text.removeprefix(" ") if self._space_prefix else text

    def _merge(self, word: str) -> list[int]:
        ranks = self._ranks
        # A linked list over the characters: symbol i starts at i; the text of an absorbed symbol is "".
        symbols = list(word)
        following = list(range(1, len(word) + 1))
        preceding = list(range(-1, len(word) - 1))
        queue = [(ranks[pair], left, pair) for left in range(len(word) - 1) if (pair := word[left : left + 2]) in ranks]
        heapify(queue)
        while queue:
            _, left, merged = heappop(queue)
            right = following[left]
            # The entry is stale if one of the two symbols has merged since. Equal text here means the same merge.
            if not symbols[left] or right >= len(word) or symbols[left] + symbols[right] != merged:
                continue
            symbols[left] = merged
            symbols[right] = ""
            after = following[left] = following[right]
            if after < len(word):
                preceding[after] = left
                pair = merged + symbols[after]
                if pair in ranks:
                    heappush(queue, (ranks[pair], left, pair))
            before = preceding[left]
            if before >= 0:
                pair = symbols[before] + merged
                if pair in ranks:
                    heappush(queue, (ranks[pair], before, pair))
        ids: list[int] = []
        for symbol in filter(None, symbols):
            token_id = self._ids.get(symbol)
            if token_id is not None:
                ids.append(token_id)
            else:
                ids += self._bytes(symbol)
        return ids

    def _bytes(self, symbol: str) -> list[int]:
        found = [self._byte_ids.get(byte, self.vocabulary.unk_id) for byte in symbol.encode()]
        return [token_id for token_id in found if token_id is not None]
