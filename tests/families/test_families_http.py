"""Every family through the real server; damaged files of each end it with a clear line."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ggserve.errors import ModelFileError
from ggserve.model.gguf_model import GGUFModel
from ggserve.modelfile.gguf import read_gguf
from ggserve.modelfile.legacy.ggml import is_ggml
from ggserve.modelfile.legacy.layout import FAMILIES
from tests.conftest import FAMILY_FILES, ROOT, Server, serve
from tests.families.blank import write
from tests.processes import PATIENCE, clean_environment

FILES = sorted(path.name for path in FAMILY_FILES.glob("*.json"))
# One file of each family, all of those in GGUF.
SERVED = [f"{Path(name).stem}.f32.bin" for name in FILES] + sorted(path.name for path in FAMILY_FILES.glob("*.gguf"))


SETTINGS = {"ENGINE": "ctransformers", "CHAT_TEMPLATE": "falcon"}  # short: a context of these models is 64 tokens


@pytest.fixture(scope="module")
def of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with all of them."""
    folder = tmp_path_factory.mktemp("models")
    for name in SERVED:
        (folder / name).symlink_to(FAMILY_FILES / name)
    with serve(tmp_path_factory.mktemp("logs"), MODELS_DIR=str(folder), **SETTINGS) as server:
        yield server


@pytest.fixture(scope="module")
def of_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the one whose family has to be named."""
    named = {"MODEL_PATH": str(FAMILY_FILES / "gpt2.f32.bin"), "MODEL_TYPE": "gpt2"}
    with serve(tmp_path_factory.mktemp("logs"), **named, **SETTINGS) as server:
        yield server


@pytest.mark.parametrize("name", SERVED)
def test_tokens_over_http(name: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue("of_gpt2" if name.startswith("gpt2.") else "of_all")

    def post(path: str, **body: Any) -> Any:
        response = httpx.post(f"{server.url}{path}", json={"model": Path(name).stem, "temperature": 0, **body})
        assert response.status_code == 200, response.text
        return response.json()

    record = json.loads((FAMILY_FILES / f"{name.split('.')[0]}.json").read_text("utf-8"))
    for run in record["files"][name]:
        answer = post("/v1/completions", prompt=run["prompt"], max_tokens=len(run["continuation"]))
        by_ids = post("/v1/completions", prompt=run["ids"] + run["continuation"][:-1], max_tokens=1)
        assert answer["usage"]["prompt_tokens"] == len(run["ids"])
        assert answer["usage"]["completion_tokens"] == len(run["continuation"])
        assert answer["choices"][0]["text"].endswith(by_ids["choices"][0]["text"])
        assert answer["choices"][0]["text"] == run["text"]
    post("/v1/chat/completions", messages=[{"role": "user", "content": "Hi"}], max_tokens=3)


def damaged(path: Path, family: str) -> Path:
    write(path, family)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1000)
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_that_is_cut_says_so(family: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"^model\.bin: .*truncated: tensor"):
        GGUFModel(damaged(tmp_path / "model.bin", family), model_type=family)


def test_a_damaged_file_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    path = damaged(tmp_path / "model.bin", "gpt2")
    ended = subprocess.run(
        [sys.executable, "main.py"],
        cwd=ROOT,
        env={
            **clean_environment(),
            "PORT": "0",
            "MODEL_PATH": str(path),
            "MODEL_TYPE": "gpt2",
            "LOG_DIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 2
    assert "ggserve: model.bin: " in ended.stderr.splitlines()[-1]
    assert "truncated: tensor" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("path", sorted(FAMILY_FILES.glob("*.gguf")), ids=lambda path: path.name)
def test_gguf_files_are_of_the_version_in_their_name(path: Path) -> None:
    assert not is_ggml(path)
    assert f".v{read_gguf(path).version}." in path.name
