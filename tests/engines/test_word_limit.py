"""Words that would overflow the stack of llama.cpp's pre-tokenizer."""

import pytest

from ggserve.engines.llama_cpp.stack import LONGEST_WORD, WordLimit
from ggserve.errors import InvalidRequest


@pytest.mark.parametrize("character", ["A", "z", "é", "一", "́", "1", " ", "\n", "=", "。", "\x01"])
def test_a_long_run_of_one_kind_is_refused_wherever_it_stands(character: str) -> None:
    limit = WordLimit("gpt-4o")
    long = "Hello, " * 100 + character * LONGEST_WORD + ", x"
    for value in (long, [{"content": [{"type": "text", "text": long}]}], {"a": {long: 1}}):
        with pytest.raises(InvalidRequest, match="in a row"):
            limit.check(value)
    limit.check(long.replace(character * 4000, character * 3999 + ("b" if character == "1" else "1")))


def test_long_texts_of_ordinary_words_are_taken() -> None:
    limit = WordLimit("gpt-4o")
    for text in ("the cat sat. " * 10_000, "猫坐着，" * 10_000, "YWJj1+/" * 10_000, "a\n" * 50_000):
        limit.check(text)


@pytest.mark.parametrize(("name", "text"), [("bloom", "a1=" * LONGEST_WORD), ("exaone-moe", "a b " * LONGEST_WORD)])
def test_a_pretokenizer_of_wide_words_has_a_limit_of_its_own(name: str, text: str) -> None:
    with pytest.raises(InvalidRequest):
        WordLimit(name).check(text)
    WordLimit("gpt-4o").check(text)


def test_only_vocabularies_with_a_pretokenizer_have_a_limit() -> None:
    assert WordLimit.of({"tokenizer.ggml.model": "llama"}) is None
    assert WordLimit.of({"tokenizer.ggml.model": "gpt2"}) is not None
