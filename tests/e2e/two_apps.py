"""Two apps in one process: prints their answers as JSON. In a process of its own, because loading changes signals."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from ggserve.app import create_app
from ggserve.settings import load_settings
from tests.conftest import FAMILY_FILES


def client(folder: Path, file: str, **settings: Any) -> TestClient:
    given = {"model_path": FAMILY_FILES / file, "log_dir": folder, "threads": 1, "context_length": 64, **settings}
    return TestClient(create_app(load_settings(given=given)), base_url="http://localhost")


def answers(app: TestClient, key: str, other: str) -> dict[str, Any]:
    headers = {"x-api-key": key}
    while app.get("/health").status_code != 200:
        time.sleep(0.05)
    body = {"prompt": "a b", "max_tokens": 3}
    return {
        "model": app.post("/v1/completions", json=body, headers=headers).json().get("model"),
        "other_key": app.get("/v1/models", headers={"x-api-key": other}).status_code,
        "large_body": app.post("/v1/completions", json={"prompt": "a" * (3 << 20)}, headers=headers).status_code,
        "prompts": app.post("/v1/completions", json={**body, "prompt": ["a"] * 3}, headers=headers).status_code,
        "response": app.get(f"/v1/responses/{_stored(app, headers)}", headers=headers).status_code,
        "metrics": app.get("/metrics", headers=headers).text,
    }


def _stored(app: TestClient, headers: dict[str, str]) -> str:
    response = app.post("/v1/responses", json={"input": "a b", "max_output_tokens": 1}, headers=headers).json()
    return str(response["id"])


def main(folder: Path) -> None:
    one = client(folder, "llama.f16.v2.gguf", api_key="one", max_body_mb=1, max_prompts=2)
    two = client(folder, "mpt.f32.bin", api_key="two", max_body_mb=8)
    with one, two:
        found = answers(one, "one", "two"), answers(two, "two", "one")
        stored = _stored(one, {"x-api-key": "one"})
        elsewhere = two.get(f"/v1/responses/{stored}", headers={"x-api-key": "two"}).status_code
    print(json.dumps({"one": found[0], "two": found[1], "elsewhere": elsewhere}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
