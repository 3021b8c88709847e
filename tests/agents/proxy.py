"""A proxy between an agent and the server that decides what the model answers: it adds a constraint to each request.

The server gets the agent's own messages and streams its answer back unchanged. The model sees one tool, makes the same
call some times, then says a text. Requests without tools, such as for a title, get a text at once.
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

Body = dict[str, Any]


@dataclass(frozen=True)
class Script:
    """The answers of a session: calls of a tool, then the texts, of which the last is said from then on."""

    texts: tuple[str, ...]
    tool: str | None = None  # the only one that the model sees
    arguments: dict[str, str] = field(default_factory=dict)
    calls: int = 0

    @property
    def parameters(self) -> Body:
        """The schema that only these arguments satisfy."""
        properties = {name: {"type": "string", "enum": [value]} for name, value in self.arguments.items()}
        return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


class Usage(NamedTuple):
    """Tokens of a prompt."""

    prompt: int
    cached: int


@dataclass(eq=False)
class Exchange:
    """A request as the agent sent it, and the server's answer."""

    path: str
    body: Body
    status: int = 0
    answer: bytes = b""

    @property
    def usage(self) -> Usage:
        """The usage that the answer ends with."""
        prompt = re.findall(rb'"(?:prompt|input)_tokens":(\d+)', self.answer)
        cached = re.findall(rb'"cached_tokens":(\d+)', self.answer)
        return Usage(int(prompt[-1]), int(cached[-1]))

    @property
    def text(self) -> bytes:
        """The streamed text so far."""
        return b"".join(re.findall(rb'"(?:content|delta)":"([^"]*)', self.answer))

    @property
    def tool_results(self) -> list[str]:
        """The results of the calls that the request repeats, oldest first."""
        chat = [message["content"] for message in self.body.get("messages", ()) if message["role"] == "tool"]
        items = [item for item in self.body.get("input", ()) if item.get("type") == "function_call_output"]
        return [result if isinstance(result, str) else json.dumps(result) for result in chat] + [
            item["output"] if isinstance(item["output"], str) else json.dumps(item["output"]) for item in items
        ]


class Proxy(ThreadingHTTPServer):
    """Listens on a free port; `exchanges` has what came through, oldest first."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.script = Script(("Done.",))
        self.exchanges: list[Exchange] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def session(self) -> list[Exchange]:
        """The exchanges with tools."""
        return [each for each in self.exchanges if each.body.get("tools")]

    def constrained(self, exchange: Exchange) -> Body:
        """Return the request with the constraint that the script asks for now."""
        script, body = self.script, dict(exchange.body)
        if body.get("tools"):
            body["tools"] = [_narrowed(tool, script) for tool in body["tools"] if _name(tool) == script.tool]
            if len(exchange.tool_results) < script.calls:
                return body | {"tool_choice": "required", "parallel_tool_calls": False}
        said = sum(len(each.tool_results) >= script.calls for each in self.exchanges[: self.exchanges.index(exchange)])
        text = script.texts[min(said, len(script.texts) - 1)]
        if "input" in body:
            format = {"type": "json_schema", "name": "text", "schema": {"enum": [text]}}
            return body | {"text": {"format": format}, "tool_choice": "none"}
        return body | {"guided_choice": [text], "stream_options": {"include_usage": True}}


@contextmanager
def proxied(upstream: str) -> Iterator[Proxy]:
    """Yield a running proxy of the server at this URL."""
    with Proxy(upstream) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        self._pass_on(None)

    def do_POST(self) -> None:
        exchange = Exchange(self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.server.exchanges.append(exchange)
        self._pass_on(exchange)

    def _pass_on(self, exchange: Exchange | None) -> None:
        body = json.dumps(self.server.constrained(exchange)) if exchange else None
        upstream = HTTPConnection(self.server.upstream)
        upstream.request(self.command, self.path, body, {"Content-Type": "application/json"})
        answer = upstream.getresponse()
        if exchange:
            exchange.status = answer.status
        try:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.getheader("Content-Type") or "")
            self.end_headers()
            while piece := answer.read1(1 << 16):
                if exchange:
                    exchange.answer += piece
                self.wfile.write(piece)
        except OSError:
            pass  # the agent is gone, and the server learns it
        finally:
            upstream.close()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def _name(tool: Body) -> str | None:
    name: str | None = tool.get("function", tool).get("name")
    return name


def _narrowed(tool: Body, script: Script) -> Body:
    if "function" in tool:
        return {**tool, "function": {**tool["function"], "parameters": script.parameters}}
    return {**tool, "parameters": script.parameters}
