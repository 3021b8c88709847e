"""The chat page's files over HTTP: types, tags, compression, policy, and the page's size."""

import gzip
import re

import httpx
import pytest

from tests.conftest import ROOT

WEB = ROOT / "ggserve/web"
FILES = sorted(path for path in WEB.rglob("*") if path.suffix in {".html", ".css", ".js", ".svg"})
BUDGET = 150_000  # bytes to transfer, every language of the highlighter included


def test_the_page_weighs_little(server):
    """Return everything that a browser can ever request, as it is sent."""
    sent = 0
    with httpx.Client(headers={"Accept-Encoding": "gzip"}) as client:
        for path in FILES:
            with client.stream("GET", f"{server.url}/web/{path.relative_to(WEB)}") as response:
                assert response.headers["content-encoding"] == "gzip"
                body = b"".join(response.iter_raw())
                assert gzip.decompress(body) == path.read_bytes()
                sent += len(body)
    assert sent < BUDGET


def test_files_of_our_own_are_small_enough_to_read():
    assert [path.name for path in WEB.glob("*.*") if len(path.read_text().splitlines()) > 300] == []


def test_nothing_in_the_page_is_inline():
    """Resources that the policy forbids would not work."""
    html = (WEB / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)


def test_the_page_names_only_files_that_exist():
    names = re.findall(r'(?:href|src)="web/([^"]+)"', (WEB / "index.html").read_text())
    assert names
    assert [name for name in names if not (WEB / name).is_file()] == []
    modules = {name for name in names if name.endswith(".js")}
    ours = {path.name for path in WEB.glob("*.js")}
    assert ours <= modules, "fetched one after the other unless the page names them"


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html"),
        ("/web/app.js", "text/javascript"),
        ("/web/base.css", "text/css"),
        ("/web/icon.svg", "image/svg"),
    ],
)
def test_files_have_their_type_policy_and_tag(server, path, media_type):
    response = httpx.get(server.url + path)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(media_type)
    policy = response.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    again = httpx.get(server.url + path, headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    plain = httpx.get(server.url + path, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == response.content
    head = httpx.head(server.url + path)
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    "path", ["/web/", "/web/nothing.js", "/web/..%2fmain.py", "/web/%2e%2e/main.py", "/web/%00.js", "/web//etc/passwd"]
)
def test_no_other_file_is_served(server, path):
    response = httpx.get(server.url + path)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "unknown_url"


def test_the_page_of_the_api_loads_nothing_from_elsewhere_and_runs_nothing(server):
    response = httpx.get(f"{server.url}/docs", timeout=60)
    assert response.headers["content-security-policy"] == httpx.get(server.url).headers["content-security-policy"]
    html = response.text
    assert "<script" not in html
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", html)
    assert not re.search(r"<style|\sstyle=|\son\w+=", html)
    for path in httpx.get(f"{server.url}/openapi.json", timeout=60).json()["paths"]:
        assert f" {path}</code>" in html
    assert httpx.get(f"{server.url}/redoc").status_code == 404
