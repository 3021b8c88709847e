"""Mixed requests of all APIs, some of whose clients leave at random moments: is anything lost, does memory grow?

python -m bench.soak --url http://127.0.0.1:8000 --pid 1234 --minutes 60
"""

import argparse
import asyncio
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

_PARTS = 10  # of a run; memory is read after each part
_NUMBER = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
_TOOL = {"name": "add", "parameters": _NUMBER}


@dataclass
class Outcome:
    """The outcome of the requests, and the state of the server."""

    answered: int = 0
    left: int = 0
    refused: int = 0
    memory: list[int] = field(default_factory=list)  # bytes resident after the warm-up and after each part

    @property
    def requests(self) -> int:
        return self.answered + self.left + self.refused

    @property
    def growth(self) -> float:
        """The growth of memory, from the warm-up to the end."""
        return self.memory[-1] / self.memory[0] - 1


async def soak(
    url: str, pid: int, clients: int, *, requests: int | None = None, seconds: float = math.inf, seed: int = 0
) -> Outcome:
    """Send requests from `clients` clients at once, half of which leave early, up to a number of requests or a time.

    Raises if an answer is unexpected or a slot is lost.
    """
    started = psutil.Process(pid)
    server = next(iter(started.children()), started)  # the worker, if the process is a supervisor
    chance = random.Random(seed)
    outcome = Outcome()
    share = None if requests is None else max(requests // _PARTS, 1)
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120) as client:
        for part in range(_PARTS + 1):  # the first part warms up
            numbers = iter(range(part << 32, (part << 32) + (share or 1 << 32)))
            await _round(client, outcome if part else Outcome(), chance, numbers, clients, seconds / _PARTS)
            await _until_idle(client)
            outcome.memory.append(server.memory_info().rss)
    return outcome


async def _round(
    client: httpx.AsyncClient,
    outcome: Outcome,
    chance: random.Random,
    numbers: Iterator[int],
    clients: int,
    seconds: float,
) -> None:
    end = time.monotonic() + seconds

    async def one_client() -> None:
        for number in numbers:
            await _request(client, outcome, chance, number)
            if time.monotonic() > end:
                return

    await asyncio.gather(*(one_client() for _ in range(clients)))


def _completion(chance: random.Random, text: str) -> dict[str, Any]:
    return {"prompt": text, "max_tokens": chance.randint(1, 6), "seed": 1}


def _scored(chance: random.Random, text: str) -> dict[str, Any]:
    return {"prompt": [text, text], "max_tokens": 3, "n": 2, "logprobs": 2}


def _chat(chance: random.Random, text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": chance.randint(1, 30)}


def _object(chance: random.Random, text: str) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": _NUMBER}}
    return {**_chat(chance, text), "response_format": form}


def _call(chance: random.Random, text: str) -> dict[str, Any]:
    return {**_chat(chance, text), "tools": [{"type": "function", "function": _TOOL}], "tool_choice": "required"}


def _response(chance: random.Random, text: str) -> dict[str, Any]:
    return {"input": text, "max_output_tokens": 16}


def _wrong(chance: random.Random, text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "temperature": -1}


_KINDS = (
    (_completion, "/v1/completions"),
    (_completion, "/v1/completions"),
    (_completion, "/v1/completions"),
    (_scored, "/v1/completions"),
    (_chat, "/v1/chat/completions"),
    (_object, "/v1/chat/completions"),
    (_call, "/v1/chat/completions"),
    (_response, "/v1/responses"),
    (_chat, "/v1/messages"),
    (_wrong, "/v1/chat/completions"),
)


async def _request(client: httpx.AsyncClient, outcome: Outcome, chance: random.Random, number: int) -> None:
    make, path = chance.choice(_KINDS)
    text = f"Story number {number}: " + "once upon a time " * chance.choice([0, 0, 1, 20])
    body = {**make(chance, text), "model": "any", "stream": chance.random() < 0.7}
    patience = chance.uniform(0, 0.3) if chance.random() < 0.5 else None
    try:
        response = await asyncio.wait_for(client.post(path, json=body), patience)
    except TimeoutError:
        outcome.left += 1
        return
    if response.status_code == 429:
        outcome.refused += 1
    elif response.status_code == (400 if make is _wrong else 200) and b"server_error" not in response.content:
        outcome.answered += 1
    else:
        raise AssertionError(f"{path}: {response.status_code}: {response.text}")


async def _until_idle(client: httpx.AsyncClient, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while True:
        health = (await client.get("/health")).json()
        if health["slots_idle"] == health["slots"] and health["waiting"] == 0:
            return
        assert time.monotonic() < deadline, f"slots were lost: {health}"
        await asyncio.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--pid", type=int, required=True, help="process id of the server")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    outcome = asyncio.run(soak(options.url, options.pid, options.clients, seconds=60 * options.minutes))
    print(
        f"{outcome.requests} requests in {options.minutes:g} minutes: {outcome.answered} answered, "
        f"{outcome.left} left, {outcome.refused} refused; all slots idle; memory after each tenth, MB: "
        f"{' '.join(f'{bytes_ / 1e6:.0f}' for bytes_ in outcome.memory)} ({outcome.growth:+.1%})"
    )


if __name__ == "__main__":
    main()
