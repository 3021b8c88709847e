"""Real vocabularies in a legacy file give the ids of the models' own tokenizers; so do unusual ones."""

from pathlib import Path

import numpy as np
import pytest

from ggserve.errors import ModelFileError
from ggserve.modelfile.gguf import GGUFFile, read_gguf
from ggserve.modelfile.legacy.ggml import read_ggml
from ggserve.modelfile.legacy.merges import derive_merges
from ggserve.modelfile.token_spelling import TokenType, to_raw
from ggserve.tokenizer.tokenizer import Tokenizer
from tests.conftest import VOCABULARIES
from tests.families.blank import write


def original(name: str) -> GGUFFile:
    path = VOCABULARIES / f"{name}.gguf"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return read_gguf(path)


def raw_tokens(gguf: GGUFFile) -> list[bytes]:
    types = gguf.get("tokenizer.ggml.token_type")
    tokens = gguf.get("tokenizer.ggml.tokens")
    return [to_raw(t) if kind == TokenType.NORMAL else t for t, kind in zip(tokens, types, strict=True)]


@pytest.mark.parametrize(
    ("name", "family", "magic", "version"),
    [("gpt-2", "gpt2", b"ggml", None), ("falcon", "falcon", b"ggjt", 3), ("falcon", "falcon", b"ggcc", 10)],
)
def test_recorded_ids(name: str, family: str, magic: bytes, version: int | None, tmp_path: Path) -> None:
    texts = raw_tokens(original(name))
    path = write(tmp_path / "m", family, magic=magic, version=version, n_vocab=len(texts), n_layer=1, texts=texts)
    tokenizer = Tokenizer.from_metadata(read_ggml(path))
    recorded = VOCABULARIES / f"{name}.gguf"
    with open(f"{recorded}.inp", encoding="utf-8", newline="") as file:
        cases = file.read().split("\n__ggml_vocab_test__\n")[:-1]
    for text, line in zip(cases, Path(f"{recorded}.out").read_text().splitlines(), strict=True):
        assert tokenizer.encode(text) == [int(number) for number in line.split()], repr(text)
    assert [tokenizer.token_text(i) for i in sorted(tokenizer.end_ids)] == ["<|endoftext|>"]


@pytest.mark.parametrize("name", ["gpt-2", "falcon"])
def test_merges_follow_from_token_order(name: str) -> None:
    gguf = original(name)
    texts = raw_tokens(gguf)
    alphabet = gguf.get("tokenizer.ggml.tokens")
    merges, left_over = derive_merges(texts, gguf.get("tokenizer.ggml.token_type") == TokenType.NORMAL)
    assert [alphabet[a] + b" " + alphabet[b] for a, b, _ in merges] == gguf.get("tokenizer.ggml.merges")
    assert left_over == []


def test_tokens_that_no_merge_makes_are_left_over() -> None:
    tokens = [bytes([byte]) for byte in range(256)] + [b"ab", b"abc", b"xyz", b"abcab"]
    merges, left_over = derive_merges(tokens, np.ones(len(tokens), np.bool_))
    assert merges == [(97, 98, 256), (256, 99, 257), (257, 256, 259)]
    assert left_over == [258]


def test_a_model_of_bytes_needs_no_merges(tmp_path: Path) -> None:
    texts = [b"<|endoftext|>", *(bytes([byte]) for byte in range(256)), b"<|user|>", b"function"]
    path = write(tmp_path / "m", "gpt2", n_vocab=len(texts), n_layer=1, texts=texts)
    tokenizer = Tokenizer.from_metadata(read_ggml(path, "gpt2"))
    assert tokenizer.encode("né") == [1 + byte for byte in "né".encode()]
    assert tokenizer.encode("a function") == [1 + ord("a"), 1 + ord(" "), len(texts) - 1]


def test_merges_that_are_missing_are_missed() -> None:
    gguf = original("gpt-2")
    with pytest.raises(ModelFileError, match="without merges"):
        Tokenizer.from_metadata({key: gguf.get(key) for key in gguf.metadata_keys() if not key.endswith("merges")})
    with pytest.raises(ModelFileError, match="without merges"):
        Tokenizer.from_metadata({key: gguf.get(key) for key in gguf.metadata_keys()} | {"tokenizer.ggml.merges": []})
