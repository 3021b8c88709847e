"""The output of `ggserve inspect`."""

import subprocess
import sys
from pathlib import Path

import pytest

from ggserve.model.inspect import main
from tests.conftest import FAMILY_FILES, ROOT
from tests.modelfile.tiny_gguf import STRING, U32, llama, modern
from tests.processes import PATIENCE


def facts(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    assert main([str(path)]) == 0
    return {line[:16].strip(): line[16:] for line in capsys.readouterr().out.splitlines()}


def test_the_default_model(default_path: Path) -> None:
    command = [sys.executable, "-m", "ggserve", "inspect", str(default_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0
    for line in (
        "format          GGUF version 3",
        "architecture    llama",
        "weights         162,826,560 in Q4_1 (210 tensors, 66.36 MB), Q8_0 (2 tensors",
        "context length  8192 tokens",
        "vocabulary      gpt2 (byte-level BPE), 49152 tokens, pre-tokenizer smollm",
        "special tokens  bos 1 <|im_start|>, eos 2 <|im_end|>",
        "chat template   368 characters: {% for message in messages %}",
        "ctransformers   runs it exactly as it is",
    ):
        assert line in result.stdout


def test_why_an_engine_does_not_run_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(modern(llama(tokenizer="gpt2")).write(tmp_path / "modern.gguf"), capsys)
    assert found["ctransformers"] == "does not run it: tokenizer.ggml.scores: missing"
    assert found["weights"] == "91,136 in F32 (20 tensors, 364.54 kB)"
    assert found["chat template"] == "none"


def test_a_vocabulary_without_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = llama()
    spec.tensors.clear()
    found = facts(spec.write(tmp_path / "vocabulary.gguf"), capsys)
    assert found["weights"] == "none: the file contains only a vocabulary"
    assert found["vocabulary"] == "llama (SentencePiece), 280 tokens, pre-tokenizer not said"
    assert found["special tokens"] == "bos 1 <s>, eos 2 </s>"


def test_the_template_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = llama()
    path = spec.write(tmp_path / "none.gguf")
    assert main(["--template", str(path)]) == 2
    assert capsys.readouterr().err == "none.gguf: has no chat template\n"
    spec.fields["tokenizer.chat_template"] = (STRING, "{{ a }}\n{{ b }}")
    assert main(["--template", str(spec.write(path))]) == 0
    assert capsys.readouterr().out == "{{ a }}\n{{ b }}\n"


def test_a_file_cannot_command_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = llama()
    spec.fields["general.name"] = (STRING, "tiny\x1b]0;title\x07\nformat: other")
    spec.fields["tokenizer.ggml.eos_token_id"] = (U32, 9999)
    found = facts(spec.write(tmp_path / "strange.gguf"), capsys)
    assert found["name"] == r"tiny\x1b]0;title\x07 format: other"
    assert "eos 9999 (no such token)" in found["special tokens"]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "is empty (0 bytes)"),
        (llama().encode()[:-100], "truncated: tensor 'blk.1.ffn_up.weight' ends at byte"),
        (llama().encode()[:1000], "truncated"),
        (b"tjgg\3\0\0\0" + bytes(100), "unknown family"),
        (b"PK\x03\x04" + bytes(100), "it looks like a zip archive or a PyTorch checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
    ],
)
def test_a_file_that_cannot_be_used(
    content: bytes, error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    assert main([str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("broken.gguf: ")
    assert error in err
    assert err.count("\n") == 1


def test_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing.gguf")]) == 2
    assert "nothing.gguf: no such file" in capsys.readouterr().err


def test_a_legacy_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(FAMILY_FILES / "falcon.q8_0.bin")]) == 0
    printed = capsys.readouterr().out
    assert "legacy GGML, ggcc v10" in printed
    assert "ctransformers: a legacy GGML file of the family falcon" in printed
    assert main([str(FAMILY_FILES / "gpt2.q4_0.bin"), "--model-type", "gpt2"]) == 0
    assert main([str(FAMILY_FILES / "starcoder.q4_0.bin"), "--model-type", "no-such-family"]) == 2
    assert "no-such-family" in capsys.readouterr().err
