"""A legacy file as GGUF: every weight comes from the file, the tokenizer is the same, and what cannot run is
rejected."""

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from ggserve.errors import ModelFileError
from ggserve.modelfile.accepts.llama_cpp import llama_cpp_objection
from ggserve.modelfile.convert import convert, main
from ggserve.modelfile.gguf import GGUFFile, read_gguf
from ggserve.modelfile.gguf_header import TensorInfo
from ggserve.modelfile.gguf_writer import SOURCE_SIZE
from ggserve.modelfile.legacy.ggml import GGMLFile, read_ggml
from ggserve.modelfile.legacy.layout import FAMILIES
from ggserve.tokenizer.tokenizer import Tokenizer
from tests.conftest import FAMILY_FILES
from tests.families.blank import tokens, write

RECORDS = {path.stem: json.loads(path.read_text("utf-8")) for path in FAMILY_FILES.glob("*.json")}
NAMES = sorted(path.name for path in FAMILY_FILES.glob("*.bin"))


def converted(source: Path, folder: Path, family: str, **options: str) -> tuple[GGMLFile, GGUFFile]:
    target = folder / "out.gguf"
    convert(source, target, model_type=family, progress=False, **options)
    return read_ggml(source, family), read_gguf(target)


def rows(file: GGMLFile | GGUFFile, tensor: TensorInfo) -> list[bytes]:
    """The rows of a matrix, the elements of a vector."""
    count = math.prod(tensor.shape[1:]) if len(tensor.shape) > 1 else tensor.shape[0]
    content = file.path.read_bytes()[tensor.offset : tensor.offset + tensor.nbytes]
    length = tensor.nbytes // count
    return [content[start : start + length] for start in range(0, len(content), length)]


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_kept_row_by_row(name: str, tmp_path: Path) -> None:
    family = RECORDS[name.split(".")[0]]["family"]
    before, after = converted(FAMILY_FILES / name, tmp_path, family)
    assert llama_cpp_objection(after) is None
    assert after.get(SOURCE_SIZE) == before.size
    added = [tensor for tensor in after.tensors.values() if family == "gptj" and "attn_output.bias" in tensor.name]
    assert all(set(rows(after, tensor)) == {bytes(4)} for tensor in added)
    kept = [tensor for tensor in after.tensors.values() if tensor not in added]
    assert len(kept) == len(before.tensors)
    for old, new in zip(before.tensors.values(), kept, strict=True):
        assert (old.type, old.shape[0] if len(old.shape) > 1 else 0) == (
            new.type,
            new.shape[0] if len(new.shape) > 1 else 0,
        )
        was, now = rows(before, old), rows(after, new)
        if family == "starcoder" and "attn_qkv" in new.name:
            assert set(now) == set(was)  # what is left out are copies
            assert len(now) < len(was)
        elif (family in ("gptneox", "dolly-v2") and "attn_qkv" in new.name) or (
            family == "gptj" and new.name.split(".")[-2] in ("attn_q", "attn_k")
        ):
            assert now != was
            assert sorted(now) == sorted(was)
        else:
            assert now == was


@pytest.mark.parametrize("family", sorted(RECORDS))
def test_the_tokenizer_is_the_same(family: str, tmp_path: Path) -> None:
    before, after = converted(FAMILY_FILES / f"{family}.f32.bin", tmp_path, RECORDS[family]["family"])
    old, new = Tokenizer.from_metadata(before), Tokenizer.from_metadata(after)
    assert (new.pieces, new.end_ids, new.control_tokens) == (old.pieces, old.end_ids, old.control_tokens)
    assert (new.bos_id, new.eos_id, new.unk_id, new.add_bos) == (old.bos_id, old.eos_id, old.unk_id, old.add_bos)
    for case in RECORDS[family]["tokenizations"]:
        assert new.encode(case["text"]) == case["ids"]


def test_the_orders_of_rows_are_those_of_the_two_graphs(tmp_path: Path) -> None:
    """Written down once more, a head and a dimension at a time."""
    before, after = converted(FAMILY_FILES / "dolly-v2.f32.bin", tmp_path, "dolly-v2")
    width = before.header.n_embd // before.header.n_head
    was = rows(before, before.tensors["gpt_neox.layers.1.attention.query_key_value.weight"])
    now = rows(after, after.tensors["blk.1.attn_qkv.weight"])
    for part in range(3):
        for head in range(before.header.n_head):
            for i in range(width):
                assert now[part * before.header.n_embd + head * width + i] == was[(head * 3 + part) * width + i]
    before, after = converted(FAMILY_FILES / "gptj.f32.bin", tmp_path, "gptj")
    was = rows(before, before.tensors["transformer.h.1.attn.k_proj.weight"])
    now = rows(after, after.tensors["blk.1.attn_k.weight"])
    n_rot, width = before.header.n_rot or 0, before.header.n_embd // before.header.n_head
    for head in range(before.header.n_head):
        for pair in range(n_rot // 2):
            for half in range(2):
                assert now[head * width + half * n_rot // 2 + pair] == was[head * width + 2 * pair + half]
        assert now[head * width + n_rot : (head + 1) * width] == was[head * width + n_rot : (head + 1) * width]


def test_settings_have_llama_cpps_names(tmp_path: Path) -> None:
    _, mpt = converted(FAMILY_FILES / "mpt.f32.bin", tmp_path, "mpt")
    assert (mpt.get("mpt.attention.max_alibi_bias"), mpt.get("mpt.attention.clamp_kqv")) == (8.0, 2.0)
    _, neox = converted(FAMILY_FILES / "gptneox.f32.bin", tmp_path, "gptneox")
    assert (neox.get("gptneox.use_parallel_residual"), neox.get("gptneox.rope.dimension_count")) == (False, 8)
    _, gptj = converted(FAMILY_FILES / "gptj.f32.bin", tmp_path, "gptj")
    assert (gptj.architecture, gptj.get("phi2.rope.dimension_count")) == ("phi2", 8)
    _, starcoder = converted(FAMILY_FILES / "starcoder.f32.bin", tmp_path, "starcoder")
    assert starcoder.get("starcoder.attention.head_count_kv") == 1


def test_heads_that_differ_stay_as_they_are(tmp_path: Path) -> None:
    """The same layout with ordinary heads, as SantaCoder's relatives could have them."""
    before, after = converted(FAMILY_FILES / "gpt2.f32.bin", tmp_path, "starcoder")
    assert after.get("starcoder.attention.head_count_kv") == before.header.n_head
    assert after.tensors["blk.0.attn_qkv.weight"].shape == before.tensors["model/h0/attn/c_attn/w"].shape


@pytest.mark.parametrize("family", FAMILIES)
def test_blank_files_of_every_family_convert(family: str, tmp_path: Path) -> None:
    before, after = converted(write(tmp_path / "in.bin", family), tmp_path, family)
    assert len(after.get("tokenizer.ggml.tokens")) == before.header.n_vocab
    assert after.tensors["token_embd.weight"].shape[1] == before.header.n_vocab


def test_falcon_40b_has_both_norms_where_llama_cpp_looks_for_them(tmp_path: Path) -> None:
    source = write(tmp_path / "in.bin", "falcon", falcon_type=40, n_head=4, n_head_kv=2)
    before = read_ggml(source, "falcon")
    with source.open("r+b") as file:
        for number, name in enumerate(("ln_mlp", "ln_attn")):
            file.seek(before.tensors[f"transformer.h.0.{name}.weight"].offset)
            file.write(np.full(before.header.n_embd, number + 1, "<f4").tobytes())
    before, after = converted(source, tmp_path, "falcon")
    for number, name in enumerate(("attn_norm", "attn_norm_2")):
        assert set(rows(after, after.tensors[f"blk.0.{name}.weight"])) == {np.float32(number + 1).tobytes()}
    assert after.get("falcon.attention.head_count_kv") == 2


def test_grouped_heads_are_llama_2s(tmp_path: Path) -> None:
    _, plain = converted(FAMILY_FILES / "llama.f32.bin", tmp_path, "llama")
    assert plain.get("llama.attention.layer_norm_rms_epsilon") == pytest.approx(5e-6)
    assert plain.get("tokenizer.ggml.add_bos_token") is True


def test_a_vocabulary_without_an_end_is_refused(tmp_path: Path) -> None:
    texts = [b"<|other|>" if text == b"<|endoftext|>" else text for text in tokens(300)]
    source = write(tmp_path / "in.bin", "mpt", texts=texts)
    with pytest.raises(ModelFileError, match="no end-of-text token"):
        convert(source, tmp_path / "out.gguf", progress=False)
    assert os.listdir(tmp_path) == ["in.bin"]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = FAMILY_FILES / "gpt2.q4_0.bin", tmp_path / "out.gguf"
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages[0].content }}")
    assert main([str(source), str(target)]) == 2
    assert "MODEL_TYPE" in capsys.readouterr().err
    command = [str(source), str(target), "--model-type", "gpt2"]
    assert main([*command, "--chat-template", str(tmp_path / "absent")]) == 2
    assert capsys.readouterr().err == "absent: cannot be read: No such file or directory\n"
    assert main([*command, "--chat-template", str(template)]) == 0
    assert read_gguf(target).get("tokenizer.chat_template") == "{{ messages[0].content }}"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    assert main([*command, "--force"]) == 2
    assert "of disk" in capsys.readouterr().err.splitlines()[-1]
