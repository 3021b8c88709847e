"""The clients that run in Node."""

import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


@pytest.mark.skipif(not (shutil.which("node") and (FOLDER / "node_modules").exists()), reason="Node is not installed")
def test_openai_and_the_ai_sdk(url: str):
    ended = subprocess.run(
        ["node", "clients.mjs", url], cwd=FOLDER, capture_output=True, text=True, timeout=200, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "done\n"
