"""Random and mutated requests to every endpoint of /openapi.json, over loopback, on a server with a tiny model:
`python -m tests.faults.fuzz --count 100000`. Prints the statuses, and each answer that should not be.

A request is known by its seed and number, and is sent again by `--first NUMBER --count 1`.
"""

import argparse
import asyncio
import copy
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from tests.conftest import FAMILY_FILES, serve

TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
SAMPLING: dict[str, Any] = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 1, "stop": ["b"]}
PENALTIES = {"repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.5, "logit_bias": {"5": 1}}
CHAT: dict[str, Any] = {"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}
CALLED = [
    {"role": "user", "content": [{"type": "text", "text": "a"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "c", "content": "1"},
]
FORMAT = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}
OPENAI_CHATS: list[dict[str, Any]] = [
    {**CHAT, "max_tokens": 2, "stream": True, "stream_options": {"include_usage": True}, **SAMPLING},
    {**CHAT, "max_tokens": 2, "n": 2, "logprobs": True, "top_logprobs": 2, **PENALTIES},
    {"messages": CALLED, "max_tokens": 2, "tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False},
    {**CHAT, "max_tokens": 3, "response_format": FORMAT},
]
BODIES: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": OPENAI_CHATS,
    "/v2/chat/completions": OPENAI_CHATS,
    "/v1/completions": [
        {"prompt": "a b", "max_tokens": 2, "echo": True, "logprobs": 1, "best_of": 2, "n": 1, **SAMPLING},
        {"prompt": [[5, 6], [7]], "max_tokens": 1, "stream": True, "ignore_eos": True, **PENALTIES},
        {"prompt": ["a", "b"], "max_tokens": 0, "suffix": None, "user": "u", "model": "default"},
    ],
    "/v1/responses": [
        {"input": "a", "max_output_tokens": 2, "instructions": "b", "temperature": 1, "stream": True},
        {"input": CHAT["messages"], "max_output_tokens": 2, "store": True, "text": {"format": {"type": "text"}}},
    ],
    "/v1/messages": [
        {**CHAT, "messages": CHAT["messages"][1:], "system": "a", "max_tokens": 2, "stop_sequences": ["b"]},
        {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
            "max_tokens": 2,
            "tools": [{"name": "f", "input_schema": SCHEMA}],
            "tool_choice": {"type": "auto"},
            "stream": True,
        },
    ],
    "/v1/messages/count_tokens": [{"messages": CHAT["messages"][1:], "system": [{"type": "text", "text": "a"}]}],
    "/v1/embeddings": [{"input": ["a", "b"], "encoding_format": "base64"}, {"input": [5, 6], "dimensions": 32}],
    "/api/chat": [{**CHAT, "stream": False, "options": {"num_predict": 2, "seed": 1}, "format": SCHEMA}],
    "/api/generate": [{"prompt": "a", "system": "b", "raw": False, "options": {"num_predict": 2, "stop": ["b"]}}],
    "/api/embed": [{"input": ["a"], "truncate": True}],
    "/api/embeddings": [{"prompt": "a"}],
    "/api/show": [{"model": "llama.f16.v2"}],
    "/v1/rerank": [{"query": "a", "documents": ["b", {"text": "c"}], "top_n": 1}],
    "/tokenize": [{"content": "a b", "add_special": True, "with_pieces": True}, CHAT],
    "/detokenize": [{"tokens": [5, 6, 7]}],
    "/apply-template": [CHAT],
}
WORDS = [
    *(
        "",
        "a",
        "\0",
        "\ud800",
        "é😀",
        "<s>",
        "<|im_end|>",
        "{{ x }}",
        "{%",
        "../..",
        "a" * 5000,
        " " * 3000,
        "9" * 5000,
    ),
    *(
        "user",
        "assistant",
        "tool",
        "developer",
        "auto",
        "required",
        "none",
        "json_object",
        "text",
        "image_url",
        "float",
    ),
]
NUMBERS: list[Any] = [0, 1, -1, 2, 3, 64, 65, 2**31, 2**63, -(2**63), 2**64, 10**40, 0.5, -0.5, 1e-300, 1e300, 1e999]
OTHERS: list[Any] = [None, True, False, [], {}, [None], [[]], [[[]]], {"": None}, float("nan"), float("-inf")]
SCHEMAS: list[Any] = [
    {"type": "string", "pattern": "(a+)+$", "maxLength": 10**9},
    {"$ref": "#"},
    {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    {"type": "array", "minItems": 10**7, "items": {}},
    {"anyOf": []},
    {"enum": list(range(500))},
]
TYPES = [
    "application/json",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "",
    "application/json; charset=utf-16",
]
SECONDS = 30.0  # seconds after which an answer counts as a hang
_AT_ONCE = (
    # requests that are prepared before they are sent: making a deep one takes seconds, for which no answer should wait
    500
)

Request = tuple[str, str, dict[str, str], bytes]  # method, path, headers and body


@dataclass
class Outcome:
    """The number of each status, and unexpected answers."""

    statuses: Counter[int] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    slowest: float = 0.0
    seconds: float = 0.0

    def __str__(self) -> str:
        statuses = ", ".join(f"{count} x {status}" for status, count in sorted(self.statuses.items()))
        total, rate = sum(self.statuses.values()), sum(self.statuses.values()) / self.seconds
        head = f"{total} requests in {self.seconds:.0f} s ({rate:.0f}/s): {statuses}; slowest {self.slowest:.1f} s"
        return "\n".join([head, *self.bad[:50], f"{len(self.bad)} answers that should not be"])


def request(endpoints: list[tuple[str, str]], chance: random.Random, size: int = 0) -> Request:
    """One for any of the endpoints (path and method), with a body of about `size` bytes."""
    path, method = chance.choice(endpoints)
    headers = {"content-type": "application/json"}
    if chance.random() < 0.05:
        headers["content-type"] = chance.choice(TYPES)
    if chance.random() < 0.05:
        headers["accept"] = chance.choice(["text/plain", "text/event-stream", "*/*", "application/xml", ""])
    while "{" in path:
        start, end = path.index("{"), path.index("}")
        path = (
            path[:start]
            + chance.choice(["a", "llama.f16.v2", "resp_1", "%00", "%ff", "..", "a/b", "é"])
            + path[end + 1 :]
        )
    if chance.random() < 0.05:
        path += "?" + chance.choice(["stream=1", "a[]=%ff", "limit=-1&limit=x", "%", "x" * 2000])
    if method == "GET" or (method == "DELETE" and chance.random() < 0.9):
        return method, path, headers, b""
    body: Any = copy.deepcopy(chance.choice(BODIES.get(path.partition("?")[0], [{"a": 1}])))
    if chance.random() < 0.1:
        body = _anything(chance, 0)
    else:
        for _ in range(chance.choice([0, 1, 1, 2, 3, 6])):
            body = _mutated(body, chance)
    if size:
        body = _enlarged(body, chance, size)
    raw = json.dumps(body, ensure_ascii=chance.random() < 0.7).encode("utf-8", "surrogatepass")
    if chance.random() < 0.1:
        raw = _mangled(raw, chance)
    return method, path, headers, raw


def _mutated(body: Any, chance: random.Random) -> Any:
    """Return a body with one place changed."""
    places = list(_places(body))
    if not places:
        return _anything(chance, 0)
    holder, key = chance.choice(places)
    how = chance.random()
    if how < 0.15:
        del holder[key]
    elif how < 0.25:
        name = chance.choice(
            ["model", "stop", "n", "stream", "tools", "format", "x", "grammar", "images", "keep_alive"]
        )
        if isinstance(holder, dict):
            holder[name] = _anything(chance, 0)
        else:
            holder.append(copy.deepcopy(holder[key]))
    elif how < 0.3 and isinstance(holder[key], list):
        holder[key] = [copy.deepcopy(holder[key][0]) for _ in range(chance.choice([2, 50, 300]))] if holder[key] else []
    elif how < 0.33:
        for _ in range(chance.choice([5, 60, 400])):
            holder[key] = [holder[key]] if chance.random() < 0.5 else {"a": holder[key]}
    else:
        holder[key] = _anything(chance, 0)
    return body


def _enlarged(body: Any, chance: random.Random, size: int) -> Any:
    """Return a body in which a text or a list is repeated until it has `size` bytes."""
    body = {"a": body}
    holder, key = chance.choice(list(_places(body)))
    part = holder[key] if isinstance(holder[key], list | str) and holder[key] else "a word "
    holder[key] = part * (size // len(json.dumps(part)))
    return body["a"]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from _places(item)


def _anything(chance: random.Random, depth: int) -> Any:
    how = chance.random()
    if depth < 3 and how < 0.1:
        return [_anything(chance, depth + 1) for _ in range(chance.randrange(4))]
    if depth < 3 and how < 0.2:
        return {chance.choice(WORDS): _anything(chance, depth + 1) for _ in range(chance.randrange(4))}
    if how < 0.25:
        return copy.deepcopy(chance.choice(SCHEMAS))
    return copy.deepcopy(chance.choice(chance.choice([WORDS, NUMBERS, OTHERS])))


def _mangled(raw: bytes, chance: random.Random) -> bytes:
    content = bytearray(raw)
    if chance.random() < 0.3:
        return raw[: chance.randrange(len(raw) + 1)]
    if chance.random() < 0.1:
        return b'{"messages":' + b"[" * chance.choice([900, 100_000])
    for _ in range(chance.choice([1, 3])):
        if content:
            content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content)


async def fuzz(url: str, first: int, count: int, *, seed: int, clients: int, seconds: float, size: int = 0) -> Outcome:
    """Send the requests, several at once, and check that all slots are free afterwards."""
    outcome, started = Outcome(), time.monotonic()
    async with httpx.AsyncClient(base_url=url, timeout=SECONDS) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
        endpoints = [(path, method.upper()) for path, methods in sorted(paths.items()) for method in methods]
        endpoints += [endpoint for endpoint in endpoints if endpoint[1] == "POST"] * 4

        async def one_client(made: Iterator[tuple[int, Request]]) -> None:
            for number, each in made:
                if time.monotonic() - started > seconds:
                    return
                await _send(client, outcome, number, each)

        at_once = clients if size else _AT_ONCE
        for start in range(first, first + count, at_once):
            numbers = range(start, min(start + at_once, first + count))
            made = iter([(number, request(endpoints, random.Random(f"{seed} {number}"), size)) for number in numbers])
            await asyncio.gather(*(one_client(made) for _ in range(clients)))
        deadline = time.monotonic() + SECONDS
        while (health := (await client.get("/health")).json())["slots_idle"] != health["slots"] or health["waiting"]:
            if time.monotonic() > deadline:
                outcome.bad.append(f"slots were lost: {health}")
                break
            await asyncio.sleep(0.1)
    outcome.seconds = time.monotonic() - started
    return outcome


async def _send(client: httpx.AsyncClient, outcome: Outcome, number: int, made: Request) -> None:
    method, path, headers, body = made
    started = time.monotonic()
    try:
        response = await asyncio.wait_for(client.request(method, path, headers=headers, content=body), SECONDS)
        status, text = response.status_code, response.text
    except (TimeoutError, httpx.HTTPError) as error:
        status, text = 0, repr(error)
    outcome.statuses[status] += 1
    outcome.slowest = max(outcome.slowest, time.monotonic() - started)
    wrong = status == 0 or (status >= 500 and status != 503) or '"internal_error"' in text
    if status >= 400 and status != 404 and method == "POST":
        wrong = wrong or '"error"' not in text
    if wrong:
        outcome.bad.append(f"{number}: {method} {path} {headers} {body[:300]!r}: {status} {text[:300]}")
        print(outcome.bad[-1], file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for all together")
    parser.add_argument("--size", type=int, default=0, help="bytes that each body is enlarged to")
    parser.add_argument("--engine", choices=["ctransformers", "llama.cpp"], default="ctransformers")
    parser.add_argument("--model", type=Path, default=FAMILY_FILES / "llama.f16.v2.gguf")
    options = parser.parse_args()
    settings = {"MODEL_PATH": str(options.model), "ENGINE": options.engine, "CONTEXT_LENGTH": "64", "PARALLEL": "2"}
    with TemporaryDirectory(prefix="fuzz-") as logs, serve(Path(logs), **settings) as server:
        outcome = asyncio.run(
            fuzz(
                server.url,
                options.first,
                options.count,
                seed=options.seed,
                clients=options.clients,
                seconds=options.seconds,
                size=options.size,
            )
        )
        console = server.log("console")
    restarted, tracebacks = "Restarting it" in console, console.count("Traceback")
    print(console[-4000:])
    print(outcome)
    print(f"the worker {'was started again' if restarted else 'lived on'}, {tracebacks} tracebacks on the console")
    return 1 if outcome.bad or restarted or tracebacks else 0


if __name__ == "__main__":
    sys.setrecursionlimit(20_000)  # bodies are nested deep
    sys.exit(main())
