"""`GET /` and `/web/...`: the chat page, from the files in `web/`. It works before a model is loaded."""

import gzip
import hashlib
from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

router = APIRouter(include_in_schema=False)

_WEB = Path(__file__).parent.parent / "web"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FILES = {path.relative_to(_WEB).as_posix(): path for path in _WEB.rglob("*") if path.suffix in _TYPES}
PAGE_HEADERS = {
    # No foreign and no inline content; only DOMPurify may turn text into elements.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types dompurify",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-DNS-Prefetch-Control": "off",  # otherwise a link in an answer would be resolved before anyone clicks it
    "Cache-Control": "no-cache",  # revalidated each time by its ETag
    "Vary": "Accept-Encoding",
}


@router.api_route("/", methods=["GET", "HEAD"])
def page(request: Request) -> Response:
    return _answer(request, "index.html")


@router.api_route("/favicon.ico", methods=["GET", "HEAD"])
def icon(request: Request) -> Response:
    """The icon that browsers request for any page."""
    return _answer(request, "icon.svg")


@router.api_route("/web/{name:path}", methods=["GET", "HEAD"])
def page_file(request: Request, name: str) -> Response:
    return _answer(request, name)


def _answer(request: Request, name: str) -> Response:
    if (path := _FILES.get(name)) is None:
        raise HTTPException(404)
    plain, packed, tag = _read(path, path.stat().st_mtime_ns)
    headers = {**PAGE_HEADERS, "ETag": tag}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(packed, headers={**headers, "Content-Encoding": "gzip"}, media_type=_TYPES[path.suffix])
    return Response(plain, headers=headers, media_type=_TYPES[path.suffix])


@lru_cache(64)
def _read(path: Path, changed: int) -> tuple[bytes, bytes, str]:
    """Return a file's bytes, the same compressed, and its ETag. `changed` invalidates the cache when the file
    changes."""
    content = path.read_bytes()
    return content, gzip.compress(content, mtime=0), f'W/"{hashlib.sha256(content).hexdigest()[:16]}"'
