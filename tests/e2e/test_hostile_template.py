"""A chat template that passes its trials and loops for some messages affects only those requests."""

import signal
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import serve
from tests.processes import PATIENCE
from tests.shallow_model import write_shallow_model

# A step of the loop searches a text and builds nothing: only time stops it.
LOOP = "{% set t = 'a' * 10**7 %}{% for i in range(99999) %}{% if 'b' in t %}{% endif %}{% endfor %}"
TEMPLATE = (
    "{% for m in messages %}{% if 'loop' in m.content %}" + LOOP + "{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


def test_a_template_that_loops_for_one_message(tmp_path: Path, original_path: Path) -> None:
    path = write_shallow_model(original_path, tmp_path / "model.gguf", {"tokenizer.chat_template": TEMPLATE})

    def body(content: str, stream: bool) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": content}], "max_tokens": 2, "stream": stream}

    with serve(tmp_path, MODEL_PATH=str(path), CONTEXT_LENGTH="128") as server:
        url = f"{server.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=body("loop", True), timeout=60) as response:  # its headers have arrived
            assert httpx.post(url, json=body("Hi", False), timeout=60).status_code == 200
            assert "takes too long" in response.read().decode()
        with httpx.stream("POST", url, json=body("loop", True), timeout=60) as response:
            server.process.send_signal(signal.SIGTERM)
            assert "takes too long" in response.read().decode()
        assert server.process.wait(PATIENCE) == 0
    assert "Traceback" not in server.log("console")
