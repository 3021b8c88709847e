"""A small hub on loopback: the requests of huggingface_hub, and the ways in which the real hub fails."""

import hashlib
import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.processes import PATIENCE


@dataclass
class Repo:
    """A repository of large files, one set of them per revision, and what goes wrong with it."""

    files: dict[str, bytes]
    revisions: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: bool = False
    size: int | None = None  # announced instead of the true one
    sent: bytes | None = None  # sent instead of the announced content
    cuts: list[int] = field(default_factory=list)  # bytes after which the next connections break
    etag: str | None = None  # announced instead of the true one
    stall: int | None = None  # bytes after which nothing comes any more, of larger files


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]


class Hub(ThreadingHTTPServer):
    """`repos` by name; `requests` is every request so far; `token`: the only one accepted, if not None."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.token: str | None = None
        self.stalled = threading.Event()
        self.down: int | None = None  # answer everything with this status

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def gets(self) -> list[Request]:
        """The requests for files' content."""
        return [request for request in self.requests if request.path.startswith("/cdn/") and request.method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, *args: object) -> None:
        pass

    def answer(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        self.server.requests.append(Request(self.command, url.path, {k.lower(): v for k, v in self.headers.items()}))
        parts = [urllib.parse.unquote(part) for part in url.path.strip("/").split("/")]
        if self.server.down:
            return self.reply(self.server.down)
        if parts[0] == "cdn":
            return self.content("/".join(parts[1:3]), parts[3], "/".join(parts[4:]))
        sent_token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if sent_token and self.server.token not in (None, sent_token):
            return self.reply(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if api else parts[:2])
        repo = self.server.repos.get(name)
        if repo is None:  # the real one tells strangers nothing: 401, with a token 404
            return self.reply(404 if sent_token else 401, {"X-Error-Code": "RepoNotFound"})
        revision = (parts[5:] if api else parts[3:])[0]
        files = repo.files if revision == "main" else repo.revisions.get(revision)
        if files is None:
            return self.reply(404, {"X-Error-Code": "RevisionNotFound"})
        if api:
            return self.reply(200, body=json.dumps(self.info(name, revision, files, repo)).encode())
        if repo.gated:
            return self.reply(403, {"X-Error-Code": "GatedRepo"})
        file = "/".join(parts[4:])
        if file not in files:
            return self.reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit(revision)})
        # Another host name, as the real hub's: the token must not go there.
        location = f"http://localhost:{self.server.server_port}/cdn/{name}/{revision}/{file}"
        return self.reply(
            302,
            {
                "X-Repo-Commit": commit(revision),
                "X-Linked-ETag": f'"{repo.etag or hashlib.sha256(files[file]).hexdigest()}"',
                "X-Linked-Size": str(repo.size or len(files[file])),
                "Location": location,
            },
        )

    def info(self, name: str, revision: str, files: dict[str, bytes], repo: Repo) -> dict[str, object]:
        siblings = [{"rfilename": file, "size": repo.size or len(content)} for file, content in files.items()]
        return {"id": name, "sha": commit(revision), "siblings": siblings, "tags": [], "gated": repo.gated}

    def content(self, name: str, revision: str, file: str) -> None:
        repo = self.server.repos[name]
        body = repo.sent or (repo.files if revision == "main" else repo.revisions[revision])[file]
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(body) - start))
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        end = start + repo.cuts.pop(0) if repo.cuts else repo.stall or len(body)
        self.wfile.write(body[start:end])
        if repo.stall and end < len(body):
            self.wfile.flush()
            self.server.stalled.set()
            threading.Event().wait(PATIENCE)
        self.close_connection = True

    def reply(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def commit(revision: str) -> str:
    return hashlib.sha1(revision.encode()).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
