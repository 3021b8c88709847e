import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggserve.errors import ModelFileError
from ggserve.tokenizer.bpe import BYTE_ALPHABET
from ggserve.tokenizer.pretokenizers import PRETOKENIZERS, find_pretokenizer
from ggserve.tokenizer.tokenizer import Tokenizer

RECORDED = json.loads((Path(__file__).parent / "smollm2_ids.json").read_text("utf-8"))
"""Ids that llama.cpp gives."""
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


def metadata_of(file: Any, **changes: Any) -> dict[str, Any]:
    keys = [
        "tokens",
        "token_type",
        "merges",
        "scores",
        "pre",
        "model",
        "bos_token_id",
        "eos_token_id",
        "unknown_token_id",
    ]
    keys = ["general.architecture", *(f"tokenizer.ggml.{key}" for key in keys)]
    found = {key: file.get(key) for key in keys if file.get(key) is not None}
    found |= {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    return {key: value for key, value in found.items() if value is not None}


def raw_bytes(file: Any) -> list[bytes]:
    """The file's tokens as raw bytes, control tokens as they are."""
    types = file.get("tokenizer.ggml.token_type")
    to_byte = {character: byte for byte, character in enumerate(BYTE_ALPHABET)}
    return [
        bytes(to_byte[character] for character in token.decode()) if kind == 1 else token
        for token, kind in zip(file.get("tokenizer.ggml.tokens"), types, strict=True)
    ]


def tiny(*, tokens: list[bytes] | None = None, types: list[int] | None = None, **changes: Any) -> dict[str, Any]:
    """A BPE of single bytes, "ab", and the control token <s>."""
    tokens = tokens or [*(c.encode() for c in BYTE_ALPHABET), b"ab", b"<s>"]
    types = types or [1] * (len(tokens) - 1) + [3]
    found = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": np.array(types),
        "merges": [b"a b"],
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (found | changes).items() if value is not None}


@pytest.mark.parametrize("name", ["gpt-2", "falcon", "llama-spm", "phi-3"])
def test_reference_vectors(vocabulary, vocabulary_file, name: str) -> None:
    tokenizer = vocabulary(name)
    path = vocabulary_file(name).path
    with open(f"{path}.inp", encoding="utf-8", newline="") as file:
        texts = file.read().split("\n__ggml_vocab_test__\n")[:-1]
    lines = Path(f"{path}.out").read_text().splitlines()
    assert len(texts) == len(lines)
    for text, line in zip(texts, lines, strict=True):
        assert tokenizer.encode(text, add_special=False) == [int(number) for number in line.split()], repr(text)


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: repr(case["text"][:20]))
def test_recorded_ids(smollm2: Tokenizer, case: dict[str, Any]) -> None:
    assert smollm2.encode(case["text"]) == case["ids"]
    assert smollm2.encode(case["text"], parse_special=True) == case["ids_with_special"]


def test_raw_byte_vocabulary_gives_the_same(smollm2_file: Any, smollm2: Tokenizer) -> None:
    raw = Tokenizer.from_metadata(metadata_of(smollm2_file, tokens=raw_bytes(smollm2_file)))
    assert raw.pieces == smollm2.pieces
    for case in RECORDED:
        assert raw.encode(case["text"], parse_special=True) == case["ids_with_special"]


def test_pieces_are_the_text(smollm2: Tokenizer) -> None:
    ids = smollm2.encode("naïve 🚀<|im_end|>", parse_special=True)
    assert ids[-1] in smollm2.end_ids
    assert b"".join(smollm2.pieces[i] for i in ids).decode() == "naïve 🚀"
    assert smollm2.decode(ids, skip_special=False) == "naïve 🚀<|im_end|>"


@given(TEXTS)
@settings(max_examples=150, deadline=None)
def test_gpt2_round_trip(vocabulary, text: str) -> None:
    assert vocabulary("gpt-2").decode(vocabulary("gpt-2").encode(text)) == text


@given(TEXTS)
@settings(max_examples=150, deadline=None)
def test_sentencepiece_round_trip(vocabulary, text: str) -> None:
    # "▁" is how that vocabulary spells a space: it can't tell the two apart.
    tokenizer = vocabulary("llama-spm")
    assert tokenizer.decode(tokenizer.encode(text)) == text.replace("▁", " ")


@given(TEXTS)
@settings(max_examples=150, deadline=None)
def test_smollm2_round_trip_but_for_bytes_it_lacks(smollm2: Tokenizer, text: str) -> None:
    known = {piece[0] for piece in smollm2.pieces if len(piece) == 1}
    expected = bytes(byte for byte in text.encode() if byte in known).decode("utf-8", "replace")
    assert smollm2.decode(smollm2.encode(text)) == expected


@given(st.lists(st.sampled_from(["<|im_start|>", "<|im_end|>", "<|", "|>", "im_end", " ", "a"]), max_size=12))
@settings(deadline=None)
def test_control_tokens_only_when_asked(smollm2: Tokenizer, parts: list[str]) -> None:
    control = set(smollm2.control_tokens.values())
    text = "".join(parts)
    assert not control & set(smollm2.encode(text))
    assert sum(i in control for i in smollm2.encode(text, parse_special=True)) == (
        text.count("<|im_start|>") + text.count("<|im_end|>")
    )


@pytest.mark.parametrize("name", ["gpt-2", "falcon", "llama-spm"])
@pytest.mark.parametrize("text", ["", "\x00", "a\x00b", "\ud83d", "x\udc00y", "\ud83d\ud83d"])
def test_strange_texts(vocabulary, name: str, text: str) -> None:
    tokenizer = vocabulary(name)
    clean = "".join("\ufffd" if 0xD800 <= ord(character) < 0xE000 else character for character in text)
    assert tokenizer.decode(tokenizer.encode(text)) == clean


@pytest.mark.parametrize("name", ["gpt-2", "falcon", "llama-spm"])
@pytest.mark.parametrize("text", ["a" * 50_000, " " * 50_000 + "x", "\n \t" * 16_000, "<" * 50_000, "ab1 " * 12_500])
def test_long_texts_keep_their_text(vocabulary, name: str, text: str) -> None:
    tokenizer = vocabulary(name)
    assert tokenizer.decode(tokenizer.encode(text, parse_special=True)) == text


def test_special_tokens_of_phi_3_take_the_space_to_their_right(vocabulary) -> None:
    phi = vocabulary("phi-3")
    ids = phi.encode("<|user|>\nHi<|end|>\n<|assistant|>\n", parse_special=True)
    assert [phi.token_text(i) for i in ids] == ["<s>", "<|user|>", "▁Hi", "<|end|>", "<|assistant|>"]
    assert phi.encode("<|endoftext|> Hi", parse_special=True) != phi.encode("<|endoftext|>Hi", parse_special=True)


def test_a_line_bpe_merges_across_spaces_and_knows_runs_of_line_feeds() -> None:
    tokens = [b"<bos>", *(f"<0x{byte:02X}>".encode() for byte in range(256))]
    tokens += [text.encode() for text in ("a", "b", "▁", "▁a", "ab", "ab▁a", "\n", "\n\n\n", "<|turn>")]
    types = [3, *[6] * 256, *[1] * 8, 4]
    metadata = tiny(tokens=tokens, types=types, model="gemma4", merges=["▁ a".encode(), b"a b", "ab ▁a".encode()])
    metadata["tokenizer.ggml.bos_token_id"] = 0
    tokenizer = Tokenizer.from_metadata(metadata)
    ids = tokenizer.encode("ab a\n\n\nb\n\né<|turn>")
    texts = [tokenizer.token_text(i) for i in ids]
    assert texts == ["<bos>", "ab▁a", "\n\n\n", "b", "\n", "\n", "<0xC3>", "<0xA9>", "<|turn>"]
    assert tokenizer.decode(ids) == "ab a\n\n\nb\n\né<|turn>"
    long = "a" * 100_000 + " " * 100_000
    assert tokenizer.decode(tokenizer.encode(long)) == long


def test_unnamed_pretokenizers_are_known_by_the_model(caplog: pytest.LogCaptureFixture) -> None:
    llama3 = [*([b"x"] * 128_000), b"<|begin_of_text|>"]
    for found, name in (
        ({"general.architecture": "qwen2"}, "qwen2"),
        ({"general.architecture": "starcoder2"}, "starcoder"),
        ({"general.architecture": "command-r"}, "command-r"),
        ({"general.architecture": "llama", "tokenizer.ggml.tokens": llama3}, "llama-bpe"),
    ):
        assert find_pretokenizer(found) == PRETOKENIZERS[name]
    assert not caplog.text
    assert find_pretokenizer({"general.architecture": "llama"}) == PRETOKENIZERS["gpt-2"]
    assert "names no pre-tokenizer" in caplog.text


def test_bos_is_added_once(vocabulary) -> None:
    llama = vocabulary("llama-spm")
    assert llama.encode("hi")[0] == llama.bos_id
    assert llama.encode("<s>hi", parse_special=True).count(llama.bos_id) == 1
    assert llama.bos_id not in llama.encode("hi", add_special=False)
    assert llama.encode("") == [llama.bos_id]


def test_space_prefix(vocabulary, vocabulary_file) -> None:
    llama = vocabulary("llama-spm")
    assert llama.pieces[llama.encode("hi", add_special=False)[0]] == b" hi"
    metadata = metadata_of(vocabulary_file("llama-spm"), add_space_prefix=False)
    without = Tokenizer.from_metadata(metadata)
    assert without.pieces[without.encode("hi", add_special=False)[0]] == b"hi"
    assert without.decode(without.encode(" hi")) == " hi"


def test_sentencepiece_words_alone_or_together_are_the_same(vocabulary) -> None:
    encoder = vocabulary("llama-spm")._encoder
    text = "The  quick\tbrown fox: 我想 12,5 %   of\n\n it all "
    alone = encoder.encode(text, starts=True)
    encoder._words_stand_alone = False
    try:
        assert encoder.encode(text, starts=True) == alone
    finally:
        encoder._words_stand_alone = True


def test_user_defined_tokens_always_match() -> None:
    tokens = [*(c.encode() for c in BYTE_ALPHABET), b"ab", b"  ", b"    ", b"<s>"]
    metadata = tiny(tokens=tokens, types=[1] * 257 + [4, 4, 3])
    tokenizer = Tokenizer.from_metadata(metadata)
    assert tokenizer.encode("      ab<s>") == [258, 257, 256, *(tokens.index(c) for c in (b"<", b"s", b">"))]
    assert tokenizer.pieces[258] == b"    "
    assert tokenizer.decode([258, 256, 259]) == "    ab"


def test_missing_bytes_vanish_but_keep_neighbours_apart() -> None:
    tokens = [c.encode() for c in BYTE_ALPHABET if c != "x"] + [b"ab", b"<s>"]
    tokenizer = Tokenizer.from_metadata(tiny(tokens=tokens))
    ab = tokens.index(b"ab")
    assert tokenizer.encode("ab") == [ab]
    assert tokenizer.encode("axb") == [tokens.index(b"a"), tokens.index(b"b")]
    assert tokenizer.encode("x") == []


@pytest.mark.parametrize("name", sorted(PRETOKENIZERS))
def test_every_pretokenizer_keeps_the_text(name: str) -> None:
    tokenizer = Tokenizer.from_metadata(tiny(pre=name))
    text = "Hello, it's 12345 ab ＡＢ 你好\r\n\n  \t x_y (z) é 🚀 HTMLParser l'Été"
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("name", sorted({pretokenizer: name for name, pretokenizer in PRETOKENIZERS.items()}.values()))
def test_every_pretokenizer_is_linear_in_a_long_run(name: str) -> None:
    """The regular-expression engine panics after ten million steps."""
    tokenizer = Tokenizer.from_metadata(tiny(pre=name))
    for text in ("A", "a", "1", " ", "\n", "=", "é", "一", "́", "a ", "A'", "\n "):
        long = text * 10_000 + "x"
        assert tokenizer.decode(tokenizer.encode(long)) == unicodedata.normalize("NFC", long)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpt-4o", ["Hello", "World's", " ", " HTMLParser", "123", "45", " a", "/b"]),
        ("deepseek-llm", ["ab", " cd", "12345", "一二", ".", "ե", "\n"]),
        ("deepseek-v3", ["ab", "123", "45", "一二", " cd", "\n"]),
        ("exaone-moe", ["a b c word", "1", "2", "=\n", "\n"]),
        ("afmoe", ["1", "234", "567", "ab", "123", "一二", "\n"]),
        ("tiny_aya", ["1", "234", "567", " Ab's", " ", "12"]),
        ("superbpe", ["12", "345", " and so on. ", "678"]),
        ("youtu", ["가나", "ab", "：", "1", "2", "一二", "ㄅ"]),
        ("kimi-k2", ["一二", "Hello", "一", " World", "123", "4"]),
        ("jais-2", ["ab", "    ", " cd", "123", "4"]),
        ("minicpm5", ["ab", "123", "4", " cd"]),
        ("laguna", ["ab", " ", "\n\n", " cd"]),
        ("chameleon", ["IMGIMGABZ", "ab", "\n", "    ", "1", "2", "!", "?"]),
        ("spark2_5", ["ab", "1", "2", "3", "4", " =", "\n", "\n"]),
        ("seed-coder", ["ab", "1", "2", " ==", "\n"]),
    ],
)
def test_words(name: str, words: list[str]) -> None:
    cut = Tokenizer.from_metadata(tiny(pre=name))._encoder._bpe.pre_tokenizer.pre_tokenize_str("".join(words))
    to_byte = {character: byte for byte, character in enumerate(BYTE_ALPHABET)}
    assert [bytes(map(to_byte.__getitem__, word)).decode() for word, _ in cut] == words


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pre": "nonesuch"}, "nonesuch"),
        ({"model": "bert"}, "bert"),
        ({"model": "t5"}, "t5"),
        ({"model": "rwkv"}, "rwkv"),
        ({"model": None}, "tokenizer.ggml.model"),
        ({"model": "llama"}, "tokenizer.ggml.scores"),
        ({"merges": None}, "tokenizer.ggml.merges"),
        ({"merges": [b"a b c"]}, "tokenizer.ggml.merges"),
        ({"token_type": np.array([1, 1])}, "tokenizer.ggml.token_type"),
        ({"tokens": []}, "tokenizer.ggml.tokens"),
    ],
)
def test_what_cannot_be_had_exactly_is_an_error(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelFileError, match=named):
        Tokenizer.from_metadata(tiny() | {f"tokenizer.ggml.{key}": value for key, value in changes.items()})


def test_a_file_from_before_pretokenizers_had_names(vocabulary, vocabulary_file) -> None:
    old = Tokenizer.from_metadata(metadata_of(vocabulary_file("falcon"), pre=None))
    text = "a = 12345; print('it''s')"
    assert old.encode(text) == vocabulary("falcon").encode(text)


def test_merges_that_name_no_token_are_left_out() -> None:
    tokenizer = Tokenizer.from_metadata(tiny(merges=[b"a b", b"ab c", b"z z"]))
    assert tokenizer.decode(tokenizer.encode("abc zz")) == "abc zz"


def test_end_ids(smollm2: Tokenizer) -> None:
    assert {smollm2.token_text(i) for i in smollm2.end_ids} == {"<|endoftext|>", "<|im_end|>", "<reponame>"}
