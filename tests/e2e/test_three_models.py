"""A chat model, an embedding model and a reranker in one process, asked at the same time while their folder changes."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import FAMILY_FILES, serve
from tests.engines.tiny_models import write_tiny_model

REQUESTS = 300
TEXTS = ["a cat", "the dog sat", "an ant"]


def test_300_requests_to_three_models_get_answers_of_the_model_that_they_name(
    tmp_path: Path, original_path: Path
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    write_tiny_model(folder, "qwen2").rename(folder / "chat.gguf")
    write_tiny_model(folder, "bert").rename(folder / "vectors.gguf")
    write_tiny_model(folder, "reranker").rename(folder / "ranks.gguf")
    for name in ("removed", "damaged", "renamed"):
        shutil.copy(FAMILY_FILES / "llama.f16.v2.gguf", folder / f"{name}.gguf")
    (folder / "large.gguf").symlink_to(original_path)  # takes more than the budget leaves beside the others
    bodies: dict[str, tuple[str, dict[str, Any]]] = {
        "chat": (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "temperature": 0},
        ),
        "vectors": ("/v1/embeddings", {"input": TEXTS}),
        "ranks": ("/v1/rerank", {"query": TEXTS[0], "documents": TEXTS}),
    }

    def answer(name: str, found: dict[str, Any]) -> Any:
        match name:
            case "chat":
                return found["choices"][0]["message"]["content"]
            case "vectors":
                return [[round(number, 2) for number in item["embedding"]] for item in found["data"]]
        return [(item["index"], round(item["relevance_score"], 2)) for item in found["results"]]

    with serve(tmp_path, MODELS_DIR=str(folder), CONTEXT_LENGTH="128", PARALLEL="2", MODELS_MEMORY="64") as server:
        limit = httpx.get(f"{server.url}/models").json()["memory"]["limit"]
        assert limit == 64 << 20

        async def main() -> dict[str, set[str]]:
            seen: dict[str, set[str]] = {name: set() for name in bodies}
            async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:

                async def ask(name: str) -> None:
                    path, body = bodies[name]
                    got = await client.post(path, json={**body, "model": name})
                    assert got.status_code == 200, got.text
                    assert got.json()["model"] == name
                    seen[name].add(str(answer(name, got.json())))

                async def one_client(name: str) -> None:
                    for _ in range(REQUESTS // 6):
                        await ask(name)

                async def disturb() -> None:
                    for name in ("removed", "damaged", "renamed"):
                        body = {"model": name, "prompt": "a", "max_tokens": 1}
                        assert (await client.post("/v1/completions", json=body)).status_code == 200
                    (folder / "removed.gguf").unlink()
                    (folder / "broken").write_bytes(b"GGUF" + bytes(100))
                    (folder / "broken").replace(folder / "damaged.gguf")
                    (folder / "renamed.gguf").rename(folder / "new.gguf")
                    for name in ("removed", "damaged", "renamed"):
                        assert (await client.post("/v1/completions", json={**body, "model": name})).status_code == 404
                    assert (await client.post("/v1/completions", json={**body, "model": "new"})).status_code == 200
                    too_large = await client.post("/v1/completions", json={**body, "model": "large"})
                    assert (too_large.status_code, "MODELS_MEMORY allows 0.07 GB" in too_large.text) == (500, True)

                await asyncio.gather(*(one_client(name) for name in bodies for _ in range(2)), disturb())
            return seen

        seen = asyncio.run(main())
        assert [len(answers) for answers in seen.values()] == [1, 1, 1]
        memory = httpx.get(f"{server.url}/models").json()["memory"]
        assert 0 < memory["used"] <= limit
        assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
