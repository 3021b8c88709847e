"""The `llm` command, with a model of its own configuration file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def folder(url: str, tmp_path: Path) -> Path:
    model = f"- model_id: local\n  model_name: default\n  api_base: {url}\n  supports_schema: true\n"
    (tmp_path / "extra-openai-models.yaml").write_text(model)
    return tmp_path


def llm(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "LLM_USER_PATH": str(folder), "OPENAI_API_KEY": "none"}
    command = [
        sys.executable,
        "-m",
        "llm",
        *arguments,
        "-m",
        "local",
        "-o",
        "temperature",
        "0",
        "-o",
        "max_tokens",
        "60",
    ]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_prompt_streamed_and_whole(folder: Path):
    streamed = llm(folder, "Write one sentence about the sea.")
    assert "sea" in streamed
    assert llm(folder, "Write one sentence about the sea.", "--no-stream") == streamed


def test_a_schema(folder: Path):
    answer = json.loads(llm(folder, "A dog", "--schema", "age int, good bool"))
    assert set(answer) == {"age", "good"}
