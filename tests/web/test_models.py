"""The models dialog: state and memory, load, unload, pull."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import FAMILY_FILES, Server, serve
from tests.engines.tiny_models import write_tiny_model
from tests.hub.loopback_hub import Repo, running_hub
from tests.web.browser import audit


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, logs = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("logs")
    shutil.copy(FAMILY_FILES / "llama.f16.v2.gguf", folder / "one.gguf")
    write_tiny_model(folder, "bert").rename(folder / "two.gguf")
    content = write_tiny_model(logs, "qwen2").read_bytes()
    with running_hub() as hub:
        hub.repos["org/tiny"] = Repo({"tiny-Q8_0.gguf": content})
        environment = {"MODELS_DIR": str(folder), "HF_ENDPOINT": hub.url, "HF_HOME": str(logs / "hf")}
        with serve(logs, CONTEXT_LENGTH="64", **environment) as server:
            yield server


def test_models_are_listed_loaded_unloaded_and_pulled(page, server, tmp_path: Path) -> None:
    page.open(server.url, ready=False)
    page.until(lambda: page.texts("#models option") == ["one", "two"])
    page.click("#open-models")
    page.until(lambda: page.texts(".model-title") == ["one", "two"])
    assert "embeddings" in page.texts(".model-row .hint")[1]
    page.click("[aria-label='Load one']")
    page.until(lambda: "in memory" in page.texts(".model-row .hint")[0])
    assert audit(page) == []
    page.click("[aria-label='Unload one']")
    page.until(lambda: page.shown("[aria-label='Load one']"))
    page.one("#pull-name").send_keys("org/absent")
    page.click("#pull-button")
    page.until(lambda: "no such repository" in page.text("#pull-state"))
    page.one("#pull-name").clear()
    page.one("#pull-name").send_keys("org/tiny")
    page.click("#pull-button")
    page.until(lambda: "org/tiny:Q8_0" in page.texts(".model-title"))
    page.press(page.keys.ESCAPE)
    page.until(lambda: "org/tiny:Q8_0" in page.texts("#models option"))


def test_one_model_is_shown_and_nothing_can_be_pulled(page, common_server: Server) -> None:
    page.open(common_server.url)
    page.click("#open-models")
    page.until(lambda: len(page.texts(".model-title")) == 1)
    assert not page.shown("#pull")
    assert "of memory used by models" in page.text("#memory-text")
