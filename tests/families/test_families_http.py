"""Every family through the real server; damaged files of each end it with a clear line."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from ggserve.modelfile.gguf import read_gguf
from ggserve.modelfile.legacy.ggml import is_ggml
from ggserve.modelfile.legacy.layout import FAMILIES
from tests.conftest import FAMILY_FILES, ROOT, serve
from tests.families.blank import write
from tests.processes import clean_environment

FILES = sorted(path.name for path in FAMILY_FILES.glob("*.json"))
# One file of each family, all of those in GGUF.
SERVED = [f"{Path(name).stem}.f32.bin" for name in FILES] + sorted(path.name for path in FAMILY_FILES.glob("*.gguf"))


@pytest.mark.parametrize("name", SERVED)
def test_tokens_over_http(name: str, tmp_path: Path) -> None:
    record = json.loads((FAMILY_FILES / f"{name.split('.')[0]}.json").read_text("utf-8"))
    needs_type = {"MODEL_TYPE": record["family"]} if record["family"] == "gpt2" else {}
    template = {"CHAT_TEMPLATE": "falcon"}  # short: a context of these models is 64 tokens
    settings = {"MODEL_PATH": str(FAMILY_FILES / name), "ENGINE": "ctransformers", **needs_type, **template}
    with serve(tmp_path, **settings) as server:
        for run in record["files"][name]:
            answer = httpx.post(
                f"{server.url}/v1/completions",
                json={"prompt": run["prompt"], "temperature": 0, "max_tokens": len(run["continuation"])},
                timeout=60,
            ).json()
            by_ids = httpx.post(
                f"{server.url}/v1/completions",
                json={"prompt": run["ids"] + run["continuation"][:-1], "temperature": 0, "max_tokens": 1},
                timeout=60,
            ).json()
            assert answer["usage"]["prompt_tokens"] == len(run["ids"])
            assert answer["usage"]["completion_tokens"] == len(run["continuation"])
            assert answer["choices"][0]["text"].endswith(by_ids["choices"][0]["text"])
            assert answer["choices"][0]["text"] == run["text"]
        chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
        assert httpx.post(f"{server.url}/v1/chat/completions", json=chat, timeout=60).status_code == 200


@pytest.mark.parametrize("family", FAMILIES)
def test_a_damaged_file_is_one_line_and_exit_code_2(family: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.bin", family)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1000)
    ended = subprocess.run(
        [sys.executable, "main.py"],
        cwd=ROOT,
        env={
            **clean_environment(),
            "PORT": "0",
            "MODEL_PATH": str(path),
            "MODEL_TYPE": family,
            "LOG_DIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2
    assert "ggserve: model.bin: " in ended.stderr.splitlines()[-1]
    assert "truncated: tensor" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("path", sorted(FAMILY_FILES.glob("*.gguf")), ids=lambda path: path.name)
def test_gguf_files_are_of_the_version_in_their_name(path: Path) -> None:
    assert not is_ggml(path)
    assert f".v{read_gguf(path).version}." in path.name
