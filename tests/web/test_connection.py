"""The page's messages while the server loads, and if it requires a key."""

import subprocess
import sys

from tests.conftest import ROOT, serve
from tests.hub.loopback_hub import Repo, running_hub
from tests.processes import PATIENCE, clean_environment, free_port
from tests.web.browser import SEA


def test_the_page_is_there_while_the_model_loads(page, tmp_path):
    port = free_port()
    places = {"HF_HOME": str(tmp_path / "hf"), "LOG_DIR": str(tmp_path / "logs")}
    with running_hub() as hub:
        hub.repos["org/slow"] = Repo({"slow.gguf": bytes(2000)}, stall=1000)
        process = subprocess.Popen(
            [sys.executable, "main.py", "--port", str(port)],
            cwd=ROOT,
            env={**clean_environment(), **places, "MODEL_NAME": "org/slow", "HF_ENDPOINT": hub.url},
            stderr=subprocess.DEVNULL,
        )
        try:
            assert hub.stalled.wait(PATIENCE)
            page.open(f"http://127.0.0.1:{port}", ready=False)
            page.until(lambda: page.text("#connection-text") == "The model is loading: 0 %")
            assert page.shown("#loading")
            assert page.shown("#examples")
            page.write(SEA)
            assert page.all(".message") == []
            assert page.js("return document.querySelector('#message').value") == SEA, "it waits for the model"
        finally:
            process.terminate()
            process.wait(timeout=PATIENCE)


def test_a_key_is_asked_for_and_sent(page, tmp_path, default_path):
    with serve(tmp_path, CONTEXT_LENGTH="512", API_KEY="open sesame") as server:
        page.open(server.url, ready=False, max_tokens=4)
        page.until(lambda: page.text("#connection-text") == "This server requires an API key.")
        page.click("#give-key")
        assert page.js("return document.activeElement.name") == "key"
        page.press("open sesame")
        page.click("#settings .dialog-head button")
        page.wait_ready()
        assert page.ask(SEA)
