"""The long runs of this folder, shortened."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from ggserve.modelfile.accepts.llama_cpp import llama_cpp_objection
from ggserve.modelfile.gguf import read_gguf
from tests.conftest import FAMILY_FILES, ROOT, serve
from tests.engines.load_changed_models import spec_of
from tests.engines.tiny_models import write_tiny_model
from tests.faults.citations import run as cite
from tests.faults.fuzz import fuzz
from tests.modelfile.tiny_gguf import STRING, U32


def test_no_damaged_file_kills_hangs_or_surprises() -> None:
    # In a process of its own: it forks, which one with threads of native code must not.
    command = [sys.executable, "-m", "tests.faults.mutants", "--count", "60", "--seed", "1", "--seconds", "120"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_request_is_answered_with_a_500(tmp_path: Path) -> None:
    with serve(
        tmp_path, ENGINE="ctransformers", MODEL_PATH=str(FAMILY_FILES / "llama.f16.v2.gguf"), CONTEXT_LENGTH="64"
    ) as server:
        outcome = asyncio.run(fuzz(server.url, 0, 300, seed=1, clients=2, seconds=60))
        assert not outcome.bad, outcome
        assert "Traceback" not in server.log("console")


@pytest.mark.parametrize("engine", ["ctransformers", "llama.cpp"])
def test_every_quotation_of_a_random_model_is_in_its_document(engine: Literal["ctransformers", "llama.cpp"]) -> None:
    outcome = cite(engine, 0, 50, seed=1)
    assert outcome.quotations
    assert not outcome.bad, outcome


@pytest.mark.parametrize(
    ("architecture", "key", "field"),
    [
        ("qwen3", "qwen3.attention.key_length", (STRING, b"yarn")),
        ("qwen3", "qwen3.attention.head_count", (U32, 2**32 - 1)),
        ("qwen2", "qwen2.rope.dimension_count", (U32, 2)),
        ("qwen3", "qwen3.rope.dimension_count", (U32, 2)),
        ("llama", "llama.context_length", (U32, 1)),
        ("bert", "bert.attention.key_length", (U32, 3)),
        ("phi3", "phi3.attention.key_length", (U32, 32)),
        ("llama", "llama.rope.scaling.type", (STRING, b"gpt2")),
        ("reranker", "tokenizer.ggml.eos_token_id", (STRING, b"<0x0A>")),
        ("phi3", "blk.1.attn_qkv.weight", None),
    ],
)
def test_what_ended_llama_cpp_is_refused(tmp_path: Path, architecture: str, key: str, field) -> None:
    path = write_tiny_model(tmp_path, architecture)
    spec = spec_of(path)
    assert llama_cpp_objection(read_gguf(path)) is None
    if field is None:
        del spec.tensors[key]
    else:
        spec.fields[key] = field
    objection = llama_cpp_objection(read_gguf(spec.write(path)))
    assert objection is not None
    assert objection.startswith(key.replace("qkv", "q"))


@pytest.mark.parametrize(
    "architecture",
    ["internlm2", "exaone", "xverse", "minicpm", "baichuan", "mistral3", "smollm3", "granite", "jais2"],
)
def test_a_head_that_turns_in_part_is_refused_where_it_ended_llama_cpp(tmp_path: Path, architecture: str) -> None:
    spec = spec_of(write_tiny_model(tmp_path, "llama"))
    fields = {key.replace("llama.", f"{architecture}.", 1): field for key, field in spec.fields.items()}
    spec.fields = {**fields, "general.architecture": (STRING, architecture.encode())}
    assert llama_cpp_objection(read_gguf(spec.write(tmp_path / "whole.gguf"))) is None
    key = f"{architecture}.rope.dimension_count"
    spec.fields[key] = (U32, 32)
    assert llama_cpp_objection(read_gguf(spec.write(tmp_path / "part.gguf"))) == f"{key}: 32 is not the head size 64"
