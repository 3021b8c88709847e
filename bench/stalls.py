"""What one client's huge requests cost the others: `python -m bench.stalls URL`.

For each, the seconds until it is answered, and the slowest of the /health requests that another client sends meanwhile.
"""

import sys
import threading
import time
from collections.abc import Iterator

import httpx
import orjson

_EVERY = 0.01  # seconds


def cases() -> Iterator[tuple[str, str, object]]:
    """What it is, the path, the body."""
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


def main(url: str) -> None:
    """Prints a row for each case."""
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
        print(f"| {name} | {status} | {seconds:.2f} s | {1e3 * slowest:.0f} ms |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"))
