"""Prompts of fill-in-the-middle."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggserve.chat.codec import Codec
from ggserve.chat.infill import Infill
from ggserve.generation import File
from ggserve.modelfile.token_spelling import ALPHABET, TokenType
from ggserve.tokenizer.tokenizer import Tokenizer

FAMILIES = {
    "Qwen": ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>"),
    "StarCoder": ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    "DeepSeek": ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    "CodeLlama": ("▁<PRE>", "▁<SUF>", "▁<MID>"),
}
EVERY = list(FAMILIES["Qwen"])


def infill(controls: tuple[str, ...] | list[str], *, bos: bool = False, **keys: int) -> tuple[Infill, Tokenizer]:
    """Prompts for the 256 bytes and these control tokens, whose ids begin with 256."""
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": [text.encode() for text in (*ALPHABET, *controls, "<s>")],
        "tokenizer.ggml.token_type": [TokenType.NORMAL] * 256 + [TokenType.CONTROL] * (len(controls) + 1),
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.bos_token_id": 256 + len(controls),
        "tokenizer.ggml.add_bos_token": bos,
        **{f"tokenizer.ggml.{name}_token_id": token for name, token in keys.items()},
    }
    tokenizer = Tokenizer.from_metadata(metadata)
    return Infill(metadata, Codec(tokenizer)), tokenizer


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bos", [False, True])
def test_prefix_suffix_and_the_token_before_the_middle(family: str, bos: bool) -> None:
    gap, tokenizer = infill(FAMILIES[family], bos=bos)
    assert gap.objection is None
    ids = gap.prompt("def f():", "\n  return 1", room=100)
    prefix, suffix, middle = FAMILIES[family][:3]
    shown = tokenizer.decode(ids, skip_special=False)
    assert shown == f"{'<s>' * bos}{prefix}def f():{suffix}\n  return 1{middle}"


@pytest.mark.parametrize("bos", [False, True])
def test_mistrals_models_get_the_suffix_first(bos: bool) -> None:
    gap, tokenizer = infill(("[PREFIX]", "[MIDDLE]", "[SUFFIX]"), bos=bos)
    assert gap.objection is None
    shown = tokenizer.decode(gap.prompt("def f():", "\n  return 1", room=100), skip_special=False)
    assert shown == f"{'<s>' * bos}[SUFFIX]\n  return 1[PREFIX]def f():"


@given(texts=st.tuples(*[st.lists(st.sampled_from([*EVERY, "<s>", "x", "\n"])).map("".join)] * 4))
def test_no_text_becomes_a_control_token(texts: tuple[str, ...]) -> None:
    gap, tokenizer = infill(EVERY)
    prefix, suffix, name, text = texts
    ids = gap.prompt(prefix, suffix, [File(name, text)], room=10_000)
    specials = [tokenizer.token_text(token) for token in ids if token >= 256]
    assert specials == ["<|repo_name|>", "<|file_sep|>", "<|file_sep|>", "<|fim_prefix|>", "<|fim_suffix|>", EVERY[2]]
    assert tokenizer.decode(ids, skip_special=False).endswith(f"{EVERY[0]}{prefix}{EVERY[1]}{suffix}{EVERY[2]}")


@given(room=st.integers(0, 200))
def test_other_files_take_the_room_that_is_left_and_lose_their_beginning(room: int) -> None:
    gap, _ = infill(FAMILIES["StarCoder"])
    files = [File("a.py", "a" * 50), File("b.py", "b" * 50)]
    alone = gap.prompt("x", "y", room=room)
    everything = gap.prompt("x", "y", files, room=10_000)
    ids = gap.prompt("x", "y", files, room=room)
    assert len(ids) == max(len(alone), min(room, len(everything)))
    assert ids == everything[len(everything) - len(ids) :]


def test_the_keys_of_a_file_come_before_spellings() -> None:
    gap, _ = infill([*FAMILIES["StarCoder"], "<other>"], fim_pre=259)
    assert gap.prompt("", "", room=9)[0] == 259


@pytest.mark.parametrize(
    ("controls", "missing"),
    [((), "the prefix, the suffix, the middle"), (EVERY[:2], "the middle"), (EVERY[1:], "the prefix")],
)
def test_what_a_vocabulary_lacks_is_said(controls: list[str], missing: str) -> None:
    objection = infill(controls)[0].objection
    assert objection is not None
    assert objection.endswith(f"no fill-in-the-middle token for {missing}")


def test_what_ends_a_middle_ends_an_answer() -> None:
    _, tokenizer = infill([*EVERY, "<|fim_pad|>"])
    ends = {tokenizer.token_text(token) for token in tokenizer.end_ids}
    assert {"<|repo_name|>", "<|file_sep|>", "<|fim_pad|>"} <= ends
    assert not {*EVERY[:3]} & ends
