"""The layers of docs/architecture.md hold, and the linter that checks them can fail."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

LINT = Path(sys.executable).with_name("lint-imports")


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LINT, "--no-cache"], cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True, text=True)


def test_imports_point_one_way() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("file", "forbidden"),
    [
        ("api/status.py", "ggserve.engines.pool"),
        ("engines/pool.py", "ggserve.chat.template"),
        ("server/logs.py", "ggserve.model.load"),
        ("cluster/gateway.py", "ggserve.model.registry"),
    ],
)
def test_a_forbidden_import_is_found(file: str, forbidden: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "ggserve", tmp_path / "ggserve", ignore=shutil.ignore_patterns("__pycache__", "web"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "ggserve" / file).open("a") as source:
        source.write(f"\nimport {forbidden}\n")
    result = lint(tmp_path)
    assert result.returncode == 1
    assert forbidden in result.stdout
