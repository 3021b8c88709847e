"""The `ggserve` command, and the entry points of a checkout."""

import subprocess
import sys
from pathlib import Path

import pytest

from ggserve import __version__
from tests.conftest import FAMILY_FILES, ROOT, serve
from tests.processes import clean_environment

HEAVY = ("fastapi", "pydantic", "uvicorn", "numpy", "jinja2", "xllamacpp", "ctransformers", "asyncio")


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env={**clean_environment(), **environment}, capture_output=True, text=True
    )


@pytest.mark.parametrize("argument", ["--help", "version"])
def test_help_and_version_import_nothing_heavy(argument: str) -> None:
    code = "import sys, ggserve.cli; ggserve.cli.main(sys.argv[1:2]); print(*sys.modules.keys() & set(sys.argv[2:]))"
    result = run("-c", code, argument, *HEAVY)
    assert result.stdout.endswith("\n\n"), result.stdout + result.stderr


def test_the_app_does_not_import_the_hub_s_library() -> None:
    assert run("-c", "import sys, ggserve.app; print('huggingface_hub' in sys.modules)").stdout == "False\n"


def test_cluster_explains_itself_and_takes_no_arguments() -> None:
    assert run("-m", "ggserve", "cluster", "--help").stdout.startswith("usage: ggserve cluster")
    refused = run("-m", "ggserve", "cluster", "--replicas", "2")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_a_module_is_the_command() -> None:
    assert run("-m", "ggserve", "version").stdout == f"ggserve {__version__}\n"


def test_a_word_that_is_neither_a_command_nor_a_file_is_one_line() -> None:
    result = run("-m", "ggserve", "instpect")
    assert result.returncode == 2
    assert result.stderr == "ggserve: instpect is not a command or a file: see `ggserve --help`\n"


@pytest.mark.parametrize("command", [(), ("serve",)])
def test_a_file_that_is_named_is_served(command: tuple[str, ...], tmp_path: Path) -> None:
    model = FAMILY_FILES / "llama.f16.v2.gguf"
    with serve(tmp_path, command=("-m", "ggserve", *command, str(model))) as server:
        assert f"ready: {model.stem} on" in server.log()


def test_importing_main_never_fails() -> None:
    result = run("-c", "import main; print(main.app.title, repr(main.model_path))", PORT="none", MODEL_PATH="/nowhere")
    assert result.stdout == "ggserve ''\n", result.stderr


def test_the_package_gives_the_model_class_on_first_use() -> None:
    code = (
        "import sys, ggserve; assert 'ggserve.model' not in sys.modules; "
        "from ggserve import GGUFModel, SamplingParams; import model; "
        "assert (model.GGUFModel, model.SamplingParams) == (GGUFModel, SamplingParams); print('same')"
    )
    assert run("-c", code).stdout == "same\n"
