"""`GET /docs`: the API reference as a page, made from the OpenAPI description. No scripts; same policy as the chat
page."""

import json
import re
from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import APIRouter, Request, Response

from ggserve.api.page import PAGE_HEADERS

router = APIRouter(include_in_schema=False)

_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>ggserve: API</title>
<link rel="icon" href="web/icon.svg">
<link rel="stylesheet" href="web/docs.css">
"""


@router.api_route("/docs", methods=["GET", "HEAD"])
def docs(request: Request) -> Response:
    """The API reference. Runs in a thread because the description takes a while to build once."""
    root = escape(request.scope.get("root_path", "").rstrip("/"))
    html = "".join(_page(request.app.openapi(), root))
    return Response(html, headers=PAGE_HEADERS, media_type="text/html")


def _page(openapi: dict[str, Any], root: str) -> Iterator[str]:
    yield f"{_HEAD}<h1>ggserve {escape(openapi['info']['version'])}</h1>\n{_text(openapi['info']['description'])}"
    yield f'<p>For tools: <a href="{root}/openapi.json">{root}/openapi.json</a></p>\n'
    operations = [
        (operation, method.upper(), path)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    for tag in dict.fromkeys(tag for operation, _, _ in operations for tag in operation.get("tags", ())):
        yield f"<h2>{escape(tag)}</h2>\n"
        for operation, method, path in operations:
            if tag in operation["tags"]:
                yield f"<details><summary><code>{method} {escape(root + path)}</code></summary>\n"
                yield from _operation(operation, openapi["components"]["schemas"])
                yield "</details>\n"


def _operation(operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    yield _text(operation.get("description", ""))
    for parameter in operation.get("parameters", ()):
        name, kind = escape(parameter["name"]), escape(json.dumps(parameter["schema"]))
        yield f"<p><code>{name}</code> in the {escape(parameter['in'])}: <code>{kind}</code></p>\n"
    content = operation.get("requestBody", {}).get("content", {}).values()
    for reference in (each["schema"].get("$ref", "") for each in content):
        name = reference.rpartition("/")[2]
        yield f"<p>{escape(name)}</p>\n<pre>{escape(json.dumps(schemas[name], indent=2))}</pre>\n"


def _text(text: str) -> str:
    """Return paragraphs of HTML, with text in backticks as code."""
    paragraphs = (re.sub("`([^`]+)`", r"<code>\1</code>", escape(part)) for part in text.split("\n\n") if part)
    return "".join(f"<p>{part}</p>\n" for part in paragraphs)
