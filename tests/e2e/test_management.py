"""Models are pulled, shown, copied, loaded, unloaded and deleted over HTTP, by authorized clients only."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import ollama
import pytest

from tests.conftest import FAMILY_FILES, ROOT, Server, clean_environment, serve
from tests.engines.tiny_models import write_tiny_model
from tests.hub.loopback_hub import Hub, Repo, running_hub
from tests.processes import PATIENCE


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    content = write_tiny_model(tmp_path_factory.mktemp("tiny"), "qwen2").read_bytes()
    with running_hub() as hub:
        hub.repos["org/tiny"] = Repo({"tiny-Q4_K_M.gguf": content, "tiny-Q8_0.gguf": content + bytes(32)})
        hub.repos["org/cut"] = Repo({"cut.gguf": content + bytes(24_000_000)}, cuts=[12_000_000, *[0] * 7])
        yield hub


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    shutil.copy(FAMILY_FILES / "llama.f16.v2.gguf", folder / "text.gguf")
    write_tiny_model(folder, "bert").rename(folder / "vectors.gguf")
    write_tiny_model(folder, "reranker").rename(folder / "ranks.gguf")
    return folder


@pytest.fixture(scope="module")
def server(hub: Hub, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    logs = tmp_path_factory.mktemp("logs")
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(logs / "hf"), "MODELS_DIR": str(folder)}
    with serve(logs, CONTEXT_LENGTH="64", PARALLEL="1", **environment) as server:
        yield server


@pytest.fixture
def client(server: Server) -> ollama.Client:
    return ollama.Client(host=server.url, timeout=60)


def test_ollamas_client_pulls_shows_chats_and_deletes(client: ollama.Client, folder: Path) -> None:
    news = list(client.pull("org/tiny:q8_0", stream=True))
    assert (news[0].status, news[-1].status) == ("pulling manifest", "success")
    assert all(each.completed <= each.total for each in news if each.total)
    assert max(each.completed or 0 for each in news) == max(each.total or 0 for each in news) > 0
    assert "org/tiny:Q8_0" in {model.model for model in client.list().models}
    assert client.show("org/tiny:Q8_0").capabilities == ["completion", "tools"]
    assert client.ps().models == []
    chat = [{"role": "user", "content": "Hi"}]
    client.chat("org/tiny:Q8_0", messages=chat, options={"num_predict": 2}, keep_alive=-1)
    assert [model.model for model in client.ps().models] == ["org/tiny:Q8_0"]
    client.copy("org/tiny:Q8_0", "mine/copy")
    assert client.chat("mine/copy:latest", messages=chat, options={"num_predict": 2}, keep_alive=0).done
    client.delete("org/tiny:Q8_0")
    names = {model.model for model in client.list().models}
    assert "org/tiny:Q8_0" not in names
    assert "mine/copy" in names
    assert client.show("mine/copy").details.family == "qwen2"
    client.delete("mine/copy")
    assert not [path for path in folder.rglob("blobs/*") if "tiny" in str(path)]
    with pytest.raises(ollama.ResponseError, match="does not exist"):
        client.delete("mine/copy")


def test_a_pull_that_breaks_says_so_and_the_next_continues(client: ollama.Client, hub: Hub) -> None:
    with pytest.raises(ollama.ResponseError, match="no connection"):
        list(client.pull("org/cut", stream=True))
    hub.repos["org/cut"].cuts.clear()
    before = len(hub.gets())
    assert client.pull("org/cut").status == "success"
    assert int(hub.gets()[before].headers["range"].removeprefix("bytes=").removesuffix("-")) >= 10_000_000
    with pytest.raises(ollama.ResponseError, match="no such repository"):
        client.pull("org/absent")
    for name in ("llama3", "../x/y", "/etc/passwd", "org/tiny/x"):
        with pytest.raises(ollama.ResponseError):
            client.pull(name)


@pytest.mark.parametrize("destination", ["../x", "/tmp/x", ".hidden", "a/../b", "a:b", "", "x\0y"])
def test_a_copy_stays_in_the_folder(server: Server, folder: Path, destination: str) -> None:
    before = sorted(folder.parent.rglob("*.gguf"))
    body = {"source": "text", "destination": destination}
    assert httpx.post(f"{server.url}/api/copy", json=body).status_code == 400
    assert sorted(folder.parent.rglob("*.gguf")) == before


def test_llama_servers_router_loads_and_unloads(server: Server) -> None:
    def states() -> dict[str, str]:
        listed = httpx.get(f"{server.url}/models").json()
        assert listed["memory"]["used"] == sum(model["memory"] or 0 for model in listed["data"])
        return {model["id"]: model["status"]["value"] for model in listed["data"]}

    assert httpx.post(f"{server.url}/models/load", json={"model": "text"}, timeout=60).json() == {"success": True}
    assert states()["text"] == "loaded"
    assert httpx.get(f"{server.url}/props", params={"model": "text"}).json()["model_alias"] == "text"
    assert httpx.post(f"{server.url}/models/unload", json={"model": "text"}).json() == {"success": True}
    assert states()["text"] == "unloaded"
    assert httpx.post(f"{server.url}/models/load", json={"model": "absent"}).status_code == 404
    kinds = {model["id"]: model["kind"] for model in httpx.get(f"{server.url}/models").json()["data"]}
    assert (kinds["text"], kinds["vectors"], kinds["ranks"]) == ("generation", "embeddings", "rerank")


def test_who_may_manage(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(FAMILY_FILES / "llama.f16.v2.gguf", folder / "text.gguf")
    environment = {"MODELS_DIR": str(folder), "CONTEXT_LENGTH": "64"}
    key, admin = ({"authorization": f"Bearer {word}"} for word in ("user", "admin"))
    copy, load = ("/api/copy", {"source": "text", "destination": "b"}), ("/models/load", {"model": "text"})
    with serve(tmp_path / "keys", API_KEY="user", ADMIN_API_KEY="admin", **environment) as server:

        def ask(path: str, body: dict[str, str], headers: dict[str, str]) -> int:
            return httpx.post(f"{server.url}{path}", json=body, headers=headers, timeout=60).status_code

        for path, body in (copy, load, ("/api/pull", {"model": "a/b"}), ("/models/unload", {"model": "text"})):
            assert ask(path, body, {}) == ask(path, body, key) == 401
        delete = httpx.request("DELETE", f"{server.url}/api/delete", json={"model": "text"}, headers=key)
        assert delete.status_code == 401
        assert ask(*load, admin) == ask(*copy, admin) == 200
        completion = "/v1/completions", {"model": "text", "prompt": "a", "max_tokens": 1}
        assert ask(*completion, key) == ask(*completion, admin) == 200
        assert ask(*completion, {}) == 401
    with serve(tmp_path / "none", **environment) as server:
        proxied = {"x-forwarded-for": "192.0.2.1"}
        body = {"model": "b"}
        assert httpx.request("DELETE", f"{server.url}/api/delete", json=body, headers=proxied).status_code == 403
        assert httpx.request("DELETE", f"{server.url}/api/delete", json=body).status_code == 200
        page = {"origin": "https://evil.example"}
        assert (
            httpx.request("DELETE", f"{server.url}/api/delete", json={"model": "text"}, headers=page).status_code == 403
        )
        assert (folder / "text.gguf").exists()


def test_a_mistake_in_models_toml_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text("[a]\n\ncontext_lenght = 5\n")
    environment = {**clean_environment(), "LOG_DIR": str(tmp_path / "logs"), "MODELS_DIR": str(tmp_path)}
    command = [sys.executable, "main.py", "--port", "0"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 2
    assert "models.toml, line 3: context_lenght of 'a': no such setting" in ended.stderr


def test_pull_and_list_from_the_shell(hub: Hub, tmp_path: Path) -> None:
    environment = {**clean_environment(), "MODELS_DIR": str(tmp_path), "HF_ENDPOINT": hub.url}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ggserve", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)

    pulled = run("pull", "org/tiny:Q8_0")
    assert pulled.returncode == 0, pulled.stderr
    assert Path(pulled.stdout.strip()).is_file()
    listed = run("list")
    assert listed.stdout.split()[0] == "org/tiny:Q8_0"
    assert listed.stdout.split()[-1] == "generation"
    assert run("pull", "nothing").returncode == 2
    assert run("pull").returncode == 2


def test_pinned_models_and_aliases(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("a", "b", "c"):
        shutil.copy(FAMILY_FILES / "llama.f16.v2.gguf", folder / f"{name}.gguf")
    (folder / "models.toml").write_text('[a]\npinned = true\naliases = ["gpt-4o"]\ncontext_length = 32\ntop_k = 7\n')
    with serve(tmp_path, MODELS_DIR=str(folder), CONTEXT_LENGTH="64", MODELS_MAX="2") as server:
        for name in ("b", "c", "gpt-4o", "b"):
            body = {"model": name, "prompt": "a", "max_tokens": 1, "keep_alive": 0 if name == "gpt-4o" else -1}
            assert httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).status_code == 200
        loaded = {
            model["name"]: model["context_length"] for model in httpx.get(f"{server.url}/api/ps").json()["models"]
        }
        assert loaded == {"a": 32, "b": 64}
        props = httpx.get(f"{server.url}/props", params={"model": "a"}).json()
        assert props["default_generation_settings"]["params"]["top_k"] == 7
        assert json.loads(httpx.post(f"{server.url}/api/show", json={"name": "a"}).text)["parameters"] == "top_k 7"
