"""Rotary positions from a file and the settings."""

from pathlib import Path

import numpy as np
import pytest

from ggserve.errors import ModelFileError
from ggserve.modelfile.gguf import GGUFFile, read_gguf
from ggserve.modelfile.rope import Rope, RopeSettings, check_has_rope, rope_of
from tests.modelfile.tiny_gguf import F32, STRING, U32, f32, llama

TRAINED = 64  # tokens of the tiny llama


def gguf(folder: Path, **fields: tuple[int, object]) -> GGUFFile:
    spec = llama()
    spec.fields |= {f"llama.{name.replace('__', '.')}": value for name, value in fields.items()}
    return read_gguf(spec.write(folder / "tiny.gguf"))


def settings(text: str) -> RopeSettings:
    """The settings in `yarn scale=2 base=1e6 orig=32`."""
    given: dict[str, object] = {}
    for word in text.split():
        name, _, value = word.partition("=")
        known = {"scale": ("rope_scale", float), "base": ("rope_freq_base", float), "orig": ("yarn_orig_ctx", int)}
        key, kind = known.get(name, ("rope_scaling", str))
        given[key] = kind(value or name)
    return RopeSettings(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "context", "longest", "factor"),
    [
        ("yarn", 256, 256, 4),  # as much as the context needs
        ("linear", 96, 96, 1.5),
        ("yarn", 48, 64, 1),  # nothing to scale
        ("yarn scale=2", None, 128, 2),
        ("yarn scale=2", 256, 128, 2),
        ("yarn orig=32", 128, 128, 4),
        ("yarn orig=128", 256, 256, 2),
        ("linear orig=128", 128, 128, 1),
        ("none", 64, 64, 1),
        ("base=1e6", 256, 256, 1),
        ("base=1e6", None, 64, 1),
        ("none base=1e6", 256, 256, 1),
    ],
)
def test_the_context_reaches_as_far_as_it_is_scaled(wanted: str, context, longest: int, factor: float, tmp_path: Path):
    rope = rope_of(gguf(tmp_path), settings(wanted), context)
    assert rope is not None
    assert (rope.longest, rope.factor) == (longest, factor)


def test_a_factor_of_1_is_no_scaling(tmp_path: Path):
    file = gguf(tmp_path)
    assert rope_of(file, settings("linear scale=1"), 64) == rope_of(file, settings("none"), 64)
    assert rope_of(file, RopeSettings(), 256) is None


def test_llama_cpp_derives_no_shorter_context_from_the_frequencies():
    for trained in (64, 2048, 8192, 40_960, 131_072):
        for context in range(trained, 100 * trained, trained // 7):
            rope = Rope("yarn", context / trained, None, trained, 1.0)
            assert rope.longest == context
            assert context <= int(np.float32(trained) / np.float32(rope.freq_scale)) <= context * (1 + 1e-6) + 1
            assert rope.freq_scale != 1
            assert float(np.float32(rope.freq_scale)) == rope.freq_scale


def test_a_file_that_is_scaled_already_says_what_it_was_trained_on_or_the_user_does(tmp_path: Path):
    scaled = {"rope__scaling__type": (STRING, "yarn"), "rope__scaling__factor": (F32, 4.0)}
    with pytest.raises(ModelFileError, match=r"ROPE_SCALING=yarn needs YARN_ORIG_CTX: the file is scaled by 4 already"):
        rope_of(gguf(tmp_path, **scaled), settings("yarn"), 256)
    rope = rope_of(gguf(tmp_path, **scaled), settings("yarn orig=16"), 128)
    told = rope_of(gguf(tmp_path, **scaled, rope__scaling__original_context_length=(U32, 16)), settings("yarn"), 128)
    assert rope == told == Rope("yarn", 8.0, None, 16, 4.0)


@pytest.mark.parametrize(
    ("wanted", "context", "problem"),
    [
        ("scale=2", 128, "ROPE_SCALE=2 needs ROPE_SCALING=linear or yarn"),
        ("none orig=32", 128, "YARN_ORIG_CTX=32 needs ROPE_SCALING=linear or yarn"),
        ("yarn", None, "ROPE_SCALING=yarn needs CONTEXT_LENGTH or ROPE_SCALE"),
        ("yarn scale=1000 orig=8388608", 128, "a context of 8388608000 tokens is too long"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(wanted: str, context, problem: str, tmp_path: Path):
    with pytest.raises(ModelFileError, match=problem):
        rope_of(gguf(tmp_path), settings(wanted), context)


@pytest.mark.parametrize("wanted", ["yarn", "none", "base=1e6"])
def test_a_model_without_rotary_positions_takes_no_setting(wanted: str, tmp_path: Path):
    spec = llama()
    spec.tensors["position_embd.weight"] = f32(64, TRAINED)
    learned = read_gguf(spec.write(tmp_path / "learned.gguf"))
    spec = llama()
    spec.fields = {key.replace("llama.", "mamba."): value for key, value in spec.fields.items()}
    spec.fields["general.architecture"] = (STRING, "mamba")
    for file in (learned, read_gguf(spec.write(tmp_path / "recurrent.gguf"))):
        with pytest.raises(ModelFileError, match="no rotary positions"):
            check_has_rope(file, settings(wanted))
