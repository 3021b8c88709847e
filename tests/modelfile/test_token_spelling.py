"""The two spellings of byte-level BPE tokens map to each other and are told apart."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggserve.hub.default import packaged_model
from ggserve.modelfile.gguf import read_gguf
from ggserve.modelfile.token_spelling import ALPHABET, has_raw_tokens, plain_tokens, to_alphabet, to_raw
from tests.conftest import VOCABULARIES
from tests.modelfile import tiny_gguf as tiny


@given(st.binary())
def test_the_alphabet_holds_all_bytes(raw: bytes) -> None:
    assert to_raw(to_alphabet(raw)) == raw


def test_the_alphabet_is_gpt2s() -> None:
    assert tiny.byte_alphabet() == ALPHABET
    assert to_alphabet(b" hi\n") == "ĠhiĊ".encode()


@pytest.mark.parametrize("token", [b"a b", "你".encode(), b"\xff", b"\n"])
def test_other_characters_are_no_token(token: bytes) -> None:
    with pytest.raises(ValueError, match=r"alphabet|decode"):
        to_raw(token)


@pytest.mark.parametrize("raw", [True, False])
def test_raw_tokens_are_recognised(tmp_path: Path, raw: bool) -> None:
    spec = tiny.llama(tokenizer="gpt2")
    if not raw:
        tiny.modern(spec)
    assert has_raw_tokens(read_gguf(spec.write(tmp_path / "model.gguf"))) is raw


SENTENCEPIECE = ("llama-spm.gguf", "phi-3.gguf")
BYTE_LEVEL = [
    path
    for path in (packaged_model(), *sorted(VOCABULARIES.glob("*.gguf")))
    if path is not None and path.name not in SENTENCEPIECE
]


@pytest.mark.parametrize("path", BYTE_LEVEL, ids=lambda path: path.name)
def test_real_vocabularies_turn_raw_and_back(path: Path) -> None:
    gguf = read_gguf(path)
    assert not has_raw_tokens(gguf)
    assert all(to_alphabet(to_raw(token)) == token for _, token in plain_tokens(gguf))
