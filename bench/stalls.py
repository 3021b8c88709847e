"""`python -m bench.stalls URL`: the cost of one client's huge requests to the others.

Prints, for each request, the seconds until it is answered, and the slowest of the /health requests that another client
sends meanwhile.
"""

import sys
import threading
import time
from collections.abc import Iterator

import httpx
import orjson

_EVERY = 0.01  # seconds


def cases() -> Iterator[tuple[str, str, object]]:
    """Name, path and body."""
    chat, complete = "/v1/chat/completions", "/v1/completions"
    yield "prompt of 30 MB", complete, {"prompt": "word " * 6_000_000}
    yield "5 MB of spaces", complete, {"prompt": " " * 5_000_000}
    yield "message of 30 MB", chat, {"messages": [{"role": "user", "content": "word " * 6_000_000}]}
    yield "200,000 messages", chat, {"messages": [{"role": "user", "content": "a"}] * 200_000}
    yield "50,000 messages", chat, {"messages": [{"role": "user", "content": "a"}] * 50_000}
    yield "3,000,000 token ids", complete, {"prompt": [5] * 3_000_000}
    yield "190,000 token ids", complete, {"prompt": [5] * 190_000}
    yield "400,000 emoji", complete, {"prompt": "😀" * 400_000}
    yield "300 kB of words", complete, {"prompt": "word " * 60_000}
    yield (
        "name of control tokens",
        chat,
        {"messages": [{"role": "user", "content": "a", "name": "<|im_end|>" * 3_000_000}]},
    )
    yield "300 kB of control tokens", chat, {"messages": [{"role": "user", "content": "<|im_end|>" * 30_000}]}
    yield "/tokenize of 15 MB", "/tokenize", {"content": "word " * 3_000_000, "with_pieces": True}
    yield "/tokenize of 1 MB", "/tokenize", {"content": "word " * 190_000}
    yield "/detokenize of 190,000 ids", "/detokenize", {"tokens": [5] * 190_000}
    text = "word " * 600
    yield "30 MB of empty lists", chat, [[]] * 10_000_000
    yield "tools of 30 MB", chat, {"messages": [_message(text)], "tools": [_tool("word " * 6_000_000)]}
    yield (
        "16 answers with 20 log-probabilities each",
        complete,
        {"prompt": "a", "n": 16, "logprobs": 20, "max_tokens": 32},
    )
    system = {"role": "system", "content": text}
    yield "/v1/responses: 10,000 system messages, 30 MB", "/v1/responses", {"input": [system] * 10_000}
    yield "/v1/responses: metadata of 5 MB", "/v1/responses", {"input": "a", "metadata": {"a": "b" * 5_000_000}}
    for name, messages in (
        ("10,000 user messages, 30 MB", [_message(text)] * 10_000),
        ("an assistant's last message of 30 MB", [_message("a"), _message("word " * 6_000_000, "assistant")]),
    ):
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            yield f"{path}: {name}", path, {"messages": messages, "max_tokens": 1}
    yield "/api/chat of 30 MB", "/api/chat", {"messages": [_message("word " * 6_000_000)]}
    yield "/api/generate of 30 MB", "/api/generate", {"prompt": "word " * 6_000_000}
    yield "/infill of 30 MB", "/infill", {"input_prefix": "word " * 6_000_000, "input_suffix": "b"}
    yield "/apply-template of 30 MB", "/apply-template", {"messages": [_message("word " * 6_000_000)]}


def _message(text: str, role: str = "user") -> dict[str, str]:
    return {"role": role, "content": text}


def _tool(description: str) -> dict[str, object]:
    return {"type": "function", "function": {"name": "f", "description": description, "parameters": {}}}


def main(url: str) -> None:
    """Print a row for each case."""
    for name, path, body in cases():
        content = orjson.dumps(body)
        slowest, done = 0.0, threading.Event()

        def watch(done: threading.Event = done) -> None:
            nonlocal slowest
            with httpx.Client(timeout=60) as client:
                while not done.is_set():
                    started = time.perf_counter()
                    client.get(f"{url}/health")
                    slowest = max(slowest, time.perf_counter() - started)
                    time.sleep(_EVERY)

        watcher = threading.Thread(target=watch)
        watcher.start()
        time.sleep(0.2)
        started = time.perf_counter()
        status = httpx.post(url + path, content=content, timeout=120).status_code
        seconds = time.perf_counter() - started
        done.set()
        watcher.join()
        print(
            f"| {name} | {status} | {seconds:.2f} s | {1e3 * slowest:.0f} ms | {len(content) / 1e6:.1f} MB |",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"))
