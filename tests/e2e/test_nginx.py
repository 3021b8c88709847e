"""The documented configuration of nginx, on a real nginx."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import FAMILY_FILES, ROOT, Server, serve
from tests.processes import PATIENCE, free_port

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
FORWARDED = "proxy_set_header Host 127.0.0.1; proxy_set_header X-Forwarded-Host $http_host;"


def documented_location() -> str:
    found = re.search(r"```nginx\n(.*?)```", (ROOT / "docs/service.md").read_text(), re.DOTALL)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("logs"), MODEL_PATH=str(FAMILY_FILES / "llama.f16.v2.gguf")) as server:
        yield server


@pytest.fixture(scope="module", params=["host", "forwarded host"])
def proxy(request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the nginx in front of the server."""
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    location = documented_location().replace("http://127.0.0.1:8000", server.url)
    if request.param == "forwarded host":
        location = location.replace("proxy_set_header Host $http_host;", FORWARDED)
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log;\nevents {{}}\n"
        f"http {{ access_log off; {temporary} scgi_temp_path {folder}/scgi;\n"
        f"server {{ listen 127.0.0.1:{port};\n{location} }} }}\n"
    )
    process = subprocess.Popen([NGINX or "", "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")])
    url = f"http://127.0.0.1:{port}"
    try:
        wait(url, folder)
        yield url
    finally:
        process.terminate()
        process.wait(PATIENCE)


def wait(url: str, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            httpx.get(url)
            return
        except httpx.TransportError:
            assert time.monotonic() < deadline, (folder / "error.log").read_text()
            time.sleep(0.1)


def ask(proxy: str, host: str, origin: str) -> httpx.Response:
    """As the chat page sends requests over plain HTTP, where browsers do not send `Sec-Fetch-Site`."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "stream": True}
    headers = {"Host": host, "Origin": origin}
    return httpx.post(f"{proxy}/v1/chat/completions", json=body, headers=headers, timeout=60)


@pytest.mark.parametrize("host", ["llm.lan", "llm.lan:8080", "192.168.1.5"])
def test_the_page_works_behind_it(proxy: str, host: str) -> None:
    assert httpx.get(f"{proxy}/", headers={"Host": host}).status_code == 200
    answer = ask(proxy, host, f"http://{host}")
    assert answer.status_code == 200, answer.text
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("host", "origin", "code"),
    [
        ("llm.lan", "http://evil.example", "origin_not_allowed"),
        ("evil.example", "http://evil.example", "host_not_allowed"),
    ],
)
def test_pages_of_other_sites_are_refused_behind_it_too(proxy: str, host: str, origin: str, code: str) -> None:
    refused = ask(proxy, host, origin)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, code)
