"""The rows of the table, and the scenarios that measure them on a running server."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from bench.client import Answer, BenchError, chat, complete
from bench.prompts import first_turn, next_turn, words
from bench.servers import Running

Measures = dict[str, list[float]]  # by row name, the figures of each try

CLIENTS = (2, 4, 8, 16, 32)
SLOTS = 4  # tokens of a server with up to this many clients
MANY_SLOTS = 8  # tokens of a server with more


@dataclass(frozen=True)
class Load:
    """The amount of work for a server."""

    prompt_tokens: int = 600  # of a long prompt
    short_prompt_tokens: int = 24
    decode_tokens: int = 128  # of a lone stream
    stream_tokens: int = 64  # of each of many streams
    tries: int = 3  # tokens of one client in each round
    clients: tuple[int, ...] = CLIENTS


QUICK = Load(prompt_tokens=64, decode_tokens=16, stream_tokens=8, tries=1, clients=(2, 8))


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    title: str
    unit: str  # "tokens/s", "s", "MB" or "%"
    more_is_better: bool


def rows(load: Load) -> list[Row]:
    """The rows of the table, from the top."""
    many = [
        row
        for n in load.clients
        for row in (
            Row(f"clients-{n}", f"{n} clients together", "tokens/s", True),
            Row(f"clients-{n}-first", f"{n} clients, worst first token", "s", False),
        )
    ]
    most = max(load.clients)
    return [
        Row("decode", "decode, 1 client", "tokens/s", True),
        Row("prompt", f"first token, prompt of {load.prompt_tokens}", "s", False),
        Row("turn", "first token, next turn of a chat", "s", False),
        *many,
        Row("fair", f"{most} clients, slowest / fastest stream", "%", True),
        Row("ready", "start to ready", "s", False),
        Row("memory", f"memory, {SLOTS} slots of {load.prompt_tokens} tokens", "MB", False),
    ]


@dataclass(frozen=True)
class Scenario:
    """Measures one or more rows. `run` receives the server, the amount of work, and a seed for its prompts."""

    name: str
    slots: int
    run: Callable[[Running, Load, str], Coroutine[Any, Any, Measures]]
    alone: bool = False  # no other server may run
    once: bool = False  # its figures do not vary: the first round is enough


async def warm_up(server: Running, load: Load, seed: str) -> None:
    """Answer once in every slot, and then once alone, so that everything made on first use exists afterwards."""
    await _together(server, server.slots, load.short_prompt_tokens, 2, f"{seed}, warm-up")
    await complete(server.url, words(load.short_prompt_tokens, f"{seed}, warm-up alone"), 16)


async def ready(server: Running, load: Load, seed: str) -> Measures:
    return {"ready": [server.ready_seconds]}


async def memory(server: Running, load: Load, seed: str) -> Measures:
    """Runs first, before a server caches anything from other scenarios."""
    await _together(server, server.slots, load.prompt_tokens, 2, seed)
    return {"memory": [server.memory() / 1e6]}


async def decode(server: Running, load: Load, seed: str) -> Measures:
    text = words(load.short_prompt_tokens, seed)
    return {"decode": [(await complete(server.url, text, load.decode_tokens)).decode_rate]}


async def long_prompt(server: Running, load: Load, seed: str) -> Measures:
    answer = await complete(server.url, words(load.prompt_tokens, seed), 1)
    if answer.cached_tokens > load.prompt_tokens // 10:
        raise BenchError(f"{answer.cached_tokens} tokens of a new prompt were cached")
    return {"prompt": [answer.first_token_seconds]}


async def chat_turn(server: Running, load: Load, seed: str) -> Measures:
    messages = first_turn(load.prompt_tokens // 3, seed)
    first = await chat(server.url, messages, load.stream_tokens)
    second = await chat(server.url, next_turn(messages, first.text, seed), 1)
    return {"turn": [second.first_token_seconds]}


def many_clients(count: int) -> Scenario:
    """Send different prompts from several clients at the same moment."""

    async def run(server: Running, load: Load, seed: str) -> Measures:
        answers = await _together(server, count, load.short_prompt_tokens, load.stream_tokens, seed)
        wall = max(answer.last for answer in answers) - min(answer.sent for answer in answers)
        measures = {
            f"clients-{count}": [sum(answer.tokens for answer in answers) / wall],
            f"clients-{count}-first": [max(answer.first_token_seconds for answer in answers)],
        }
        if count == max(load.clients) and all(answer.streamed for answer in answers):
            rates = [answer.decode_rate for answer in answers]
            measures["fair"] = [100 * min(rates) / max(rates)]
        return measures

    return Scenario(f"clients-{count}", SLOTS if count <= SLOTS else MANY_SLOTS, run)


def scenarios(load: Load) -> list[Scenario]:
    """In the order in which they run."""
    return [
        Scenario("ready", SLOTS, ready, alone=True),
        Scenario("memory", SLOTS, memory, alone=True, once=True),
        *[Scenario("decode", SLOTS, decode) for _ in range(load.tries)],
        *[Scenario("prompt", SLOTS, long_prompt) for _ in range(load.tries)],
        *[Scenario("turn", SLOTS, chat_turn) for _ in range(load.tries)],
        *[many_clients(count) for count in load.clients],
    ]


async def _together(server: Running, clients: int, prompt_tokens: int, tokens: int, seed: str) -> list[Answer]:
    prompts = [words(prompt_tokens, f"{seed}, client {client}") for client in range(clients)]
    return await asyncio.gather(*(complete(server.url, text, tokens) for text in prompts))
