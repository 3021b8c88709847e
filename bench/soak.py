"""Many short requests, some of whose clients leave at random moments: is anything lost?

python -m bench.soak --url http://127.0.0.1:8000 --pid 1234 --requests 2000
"""

import argparse
import asyncio
import random
import time
from dataclasses import dataclass

import httpx
import psutil


@dataclass
class Outcome:
    """What became of the requests, and of the server."""

    answered: int = 0
    left: int = 0
    refused: int = 0
    memory_before: int = 0  # bytes resident after the warm-up
    memory_after: int = 0

    @property
    def growth(self) -> float:
        return self.memory_after / self.memory_before - 1


async def soak(url: str, pid: int, requests: int, clients: int, seed: int = 0) -> Outcome:
    """Sends `requests` from `clients` clients at once, half of which leave early. Raises on any other outcome."""
    started = psutil.Process(pid)
    server = next(iter(started.children()), started)  # the worker, of a process that supervises one
    chance = random.Random(seed)
    outcome = Outcome()
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120) as client:
        await _round(client, Outcome(), chance, max(requests // 10, clients), clients)
        outcome.memory_before = server.memory_info().rss
        await _round(client, outcome, chance, requests, clients)
        await _until_idle(client)
    outcome.memory_after = server.memory_info().rss
    return outcome


async def _round(
    client: httpx.AsyncClient, outcome: Outcome, chance: random.Random, requests: int, clients: int
) -> None:
    numbers = iter(range(requests))

    async def one_client() -> None:
        for number in numbers:
            await _request(client, outcome, chance, number)

    await asyncio.gather(*(one_client() for _ in range(clients)))


async def _request(client: httpx.AsyncClient, outcome: Outcome, chance: random.Random, number: int) -> None:
    body = {
        "prompt": f"Story number {number}: " + "once upon a time " * chance.choice([0, 0, 1, 20]),
        "max_tokens": chance.randint(1, 6),
        "stream": chance.random() < 0.7,
        "seed": number,
    }
    patience = chance.uniform(0, 0.3) if chance.random() < 0.5 else None
    try:
        response = await asyncio.wait_for(client.post("/v1/completions", json=body), patience)
    except TimeoutError:
        outcome.left += 1
        return
    if response.status_code == 429:
        outcome.refused += 1
    elif response.status_code == 200 and b'"finish_reason":' in response.content:
        outcome.answered += 1
    else:
        raise AssertionError(f"{response.status_code}: {response.text}")


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
    parser.add_argument("--pid", type=int, required=True, help="of the server")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    started = time.perf_counter()
    outcome = asyncio.run(soak(options.url, options.pid, options.requests, options.clients))
    print(
        f"{options.requests} requests in {time.perf_counter() - started:.0f} s: {outcome.answered} answered, "
        f"{outcome.left} left, {outcome.refused} refused; all slots idle; memory "
        f"{outcome.memory_before / 1e6:.0f} -> {outcome.memory_after / 1e6:.0f} MB ({outcome.growth:+.1%})"
    )


if __name__ == "__main__":
    main()
