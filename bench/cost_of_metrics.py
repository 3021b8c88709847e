"""`python -m bench.cost_of_metrics`: the cost of metrics per decoded token. Times a delta's way through a request's
record with and without them, in turns; no model runs."""

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator
from unittest import mock

from ggserve.api.limits import Limits
from ggserve.api.metrics import Metrics
from ggserve.api.record import RequestRecord
from ggserve.generation import Delta, SamplingParams
from ggserve.model.gguf_model import GGUFModel
from ggserve.model.registry import ModelRegistry

LIMITS = Limits(body_bytes=1, body_seconds=0, first_token_seconds=600, request_seconds=3600, prompts=1)
TOKENS = 20_000
ROUNDS = 9
DECODE = 7e-3  # seconds per token of the default model on two cores, from the benchmark's table


async def _deltas() -> AsyncGenerator[Delta, None]:
    for count in range(TOKENS):
        yield Delta(" word", 30, 0, count + 1, "stop" if count == TOKENS - 1 else None)


async def _seconds(metrics: Metrics) -> float:
    record = RequestRecord("id", "POST", "/v1/chat/completions", metrics, LIMITS)
    started = time.perf_counter()
    async for _ in record.watch(lambda params: _deltas(), SamplingParams()):
        pass
    return (time.perf_counter() - started) / TOKENS


def main() -> None:
    """Print the microseconds per token, and their share of decoding a token."""
    on, off = Metrics(ModelRegistry(lambda listed, report: GGUFModel(listed.path))), mock.Mock(spec=Metrics)
    for name in ("first", "tokens", "ended"):
        setattr(off, name, lambda *arguments: None)
    off.live = {}
    pairs = [(asyncio.run(_seconds(on)), asyncio.run(_seconds(off))) for _ in range(ROUNDS)]
    with_them, without = (statistics.median(times) for times in zip(*pairs, strict=True))
    cost = with_them - without
    print(f"{1e6 * with_them:.1f} us a token with metrics, {1e6 * without:.1f} without: {1e6 * cost:.1f} more,")
    print(f"{cost / DECODE:.3%} of a token of {1e3 * DECODE:.0f} ms")


if __name__ == "__main__":
    main()
