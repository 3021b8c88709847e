"""`python -m bench.microseconds`: the cost of each step of a token, in microseconds.

Calls the real functions of the engine and the API. Work between two evals delays every token; work of the event loop
runs beside the next eval, and takes its share of a core.
"""

import asyncio
import socket
import statistics
import sys
import threading
import time
import timeit
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvicorn

from bench.client import complete
from bench.prompts import words
from bench.report import aligned
from ggserve.api.streaming import event
from ggserve.app import create_app, state_for
from ggserve.chat.format import ChatFormat, ThoughtFormat
from ggserve.chat.own_tools import HERMES
from ggserve.chat.parser import AnswerParser
from ggserve.engines.contract import EngineOptions
from ggserve.engines.ctransformers.context import Context
from ggserve.engines.request import Channel, RunningRequest
from ggserve.engines.sampling import Sampler
from ggserve.engines.stop_strings import TextStream
from ggserve.engines.threads import ThreadBudget
from ggserve.generation import Delta, SamplingParams
from ggserve.hub.default import default_model
from ggserve.machine import usable_cores
from ggserve.model.catalog import Listed
from ggserve.model.gguf_model import GGUFModel
from ggserve.settings import Settings

CONTEXT = 1024  # tokens
PROMPT = 600  # tokens that the penalties count
EVALS = 48
BIG_VOCABULARY = 50_000
STREAMED = 200  # tokens
PACE = 0.008  # seconds between two tokens of the stream without a model

SAMPLING = {
    "greedy": SamplingParams(temperature=0),
    "default settings": SamplingParams(seed=1),
    "all penalties, min_p": SamplingParams(
        seed=1, repetition_penalty=1.1, presence_penalty=0.5, frequency_penalty=0.5, min_p=0.05
    ),
    "DRY": SamplingParams(seed=1, dry_multiplier=0.8),
    "XTC": SamplingParams(seed=1, xtc_probability=0.5),
    "typical_p": SamplingParams(seed=1, typical_p=0.9),
    "top_n_sigma": SamplingParams(seed=1, top_n_sigma=1.0),
    "dynamic temperature": SamplingParams(seed=1, dynatemp_range=0.5),
    "Mirostat": SamplingParams(seed=1, mirostat=1),
    "Mirostat 2.0": SamplingParams(seed=1, mirostat=2),
    "typical_p without top_k": SamplingParams(seed=1, typical_p=0.9, top_k=0),
}
HEAD = {"id": f"cmpl-{0:032x}", "object": "text_completion", "created": 1_700_000_000, "model": "SmolLM2-135M-Instruct"}


@dataclass(frozen=True)
class Cost:
    """One line of the table."""

    where: str
    what: str
    microseconds: float


class Replay(GGUFModel):
    """A model whose answers cost nothing: a thread sends one word every PACE seconds."""

    loop_seconds = 0.0  # processor time of the event loop's thread for an answer

    async def complete(
        self, prompt: str | Sequence[int], params: SamplingParams | None = None
    ) -> AsyncGenerator[Delta, None]:
        answer = RunningRequest(SamplingParams())
        threading.Thread(target=self._send, args=(answer,)).start()
        started = time.thread_time()
        async for delta in answer.listen():
            yield delta
        self.loop_seconds = time.thread_time() - started

    @staticmethod
    def _send(answer: RunningRequest) -> None:
        for count in range(1, STREAMED):
            time.sleep(PACE)
            answer.put(Delta(" word", PROMPT, 0, count))
        answer.end = Delta(" word", PROMPT, 0, STREAMED, finish_reason="length")
        answer.put_end()


def measure(path: Path, threads: int) -> list[Cost]:
    """Measure the costs for a model file that ctransformers runs."""
    model = Replay(path, engine="ctransformers", context_length=CONTEXT, threads=threads, parallel=1)
    context = Context(path, "gguf", EngineOptions(context_length=CONTEXT))
    context.open()
    prompt = model.tokenize(words(PROMPT, "microseconds"))
    for start in range(0, PROMPT, 64):
        context.eval(prompt[start : start + 64], threads)
    try:
        return [
            *_evals(context, threads),
            *_between_evals(context, prompt),
            *_event_loop(model),
        ]
    finally:
        context.close()
        model.close()


def table(costs: Sequence[Cost]) -> str:
    """Return the table in Markdown."""
    lines = [("one token", "where", "µs"), *((cost.what, cost.where, f"{cost.microseconds:.1f}") for cost in costs)]
    return "\n".join(aligned(lines, left=2))


def _evals(context: Context, threads: int) -> Iterator[Cost]:
    def seconds(count: int) -> float:
        started = time.perf_counter()
        context.eval((token,), count)
        return time.perf_counter() - started

    token = int(context.logits().argmax())
    for count in sorted({1, threads}):
        tries = [seconds(count) for _ in range(EVALS)]
        yield Cost("eval", f"the eval, {count} thread{'s' * (count > 1)}", 1e6 * statistics.median(tries))


def _between_evals(context: Context, prompt: Sequence[int]) -> Iterator[Cost]:
    where = "between evals"
    yield Cost(where, "view of the logits", _each(context.logits))
    flat = np.random.default_rng(1).normal(size=BIG_VOCABULARY).astype(np.float32)
    for vocabulary, logits in (("the model's logits", context.logits()), (f"{BIG_VOCABULARY:,} random logits", flat)):
        for name, params in SAMPLING.items():
            sampler = Sampler(params, prompt, ())
            yield Cost(where, f"sample, {name}, {vocabulary}", _each(lambda s=sampler, x=logits: s.sample(x)))  # type: ignore[misc]
    text = TextStream([b" word", " wörter".encode()], ())
    yield Cost(where, "bytes to text", _each(lambda: text.push(1)))
    stopping = TextStream([b" word"], ("</s>", "\n\n", "User:"))
    yield Cost(where, "bytes to text, three stop strings", _each(lambda: stopping.push(0)))
    yield Cost(where, "make a Delta", _each(lambda: Delta(" word", PROMPT, 0, 1)))
    yield Cost(where, "put it on the channel", asyncio.run(_put()))
    yield Cost(where, "take threads for an eval and give them back", _each(_budget()))


def _budget() -> Callable[[], object]:
    budget = ThreadBudget(usable_cores())

    def take() -> None:
        with budget.eval():
            pass

    return take


async def _put() -> float:
    """Return the processor time, in microseconds, of the thread that puts, at the pace of a stream."""
    channel: Channel[float] = Channel()

    def send() -> float:
        seconds = 0.0
        for _ in range(STREAMED):
            time.sleep(PACE)
            started = time.thread_time()
            channel.put(0.0)
            seconds += time.thread_time() - started
        return 1e6 * seconds / STREAMED

    sending = asyncio.create_task(asyncio.to_thread(send))
    taken = 0
    while taken < STREAMED:
        taken += len(await channel.take())
    return await sending


async def _hop() -> float:
    """Return the microseconds from the first put in a thread to the arrival in the event loop's task."""

    async def first() -> float:
        channel: Channel[float] = Channel()
        asyncio.get_running_loop().call_later(
            PACE, threading.Thread(target=lambda: channel.put(time.perf_counter())).start
        )
        (put,) = await channel.take()
        return time.perf_counter() - put

    return 1e6 * statistics.median([await first() for _ in range(EVALS)])


def _event_loop(model: Replay) -> Iterator[Cost]:
    where = "event loop"
    yield Cost(where, "from the worker's first put to the event loop's task", asyncio.run(_hop()))
    yield from _parsing()
    choice = {"index": 0, "text": " word", "logprobs": None, "finish_reason": None}
    yield Cost(where, "JSON and SSE of a chunk", _each(lambda: event({**HEAD, "choices": [choice], "usage": None})))
    with _served(model) as url:
        asyncio.run(complete(url, "warm-up", STREAMED))
        asyncio.run(complete(url, "measured", STREAMED))
    whole = 1e6 * model.loop_seconds / STREAMED
    yield Cost(where, "the event loop's whole work: channel, JSON, ASGI, HTTP, socket", whole)


def _parsing() -> Iterator[Cost]:
    """Tell thought, text and calls apart, a piece of four characters at a time."""
    form = ChatFormat(calls=HERMES, thought=ThoughtFormat(open="<think>", close="</think>"))
    call = '<tool_call>\n{"name": "find", "arguments": {"text": "' + " word" * STREAMED + '"}}\n</tool_call>'
    for what, answer in (("text", " word" * STREAMED), ("thought", "<think>" + " word" * STREAMED), ("call", call)):
        pieces = [answer[start : start + 4] for start in range(0, len(answer), 4)]

        def parse(pieces: Sequence[str] = pieces) -> None:
            parser = AnswerParser(form, {"find": {}})
            for piece in pieces:
                parser.push(piece)

        yield Cost("event loop", f"parse a chat's answer, {what}", _each(parse, calls=5) / len(pieces))


@contextmanager
def _served(model: Replay) -> Iterator[str]:
    """Run the real app with this model over HTTP, in a thread of its own."""
    app = create_app()
    app.state.ggserve = state_for(Settings())
    app.state.ggserve.models.add(Listed.of(model.path), model)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def _each(work: Callable[[], object], calls: int = 200, tries: int = 7) -> float:
    """Return the microseconds of one call: the median of several tries."""
    return 1e6 * statistics.median(timeit.repeat(work, number=calls, repeat=tries)) / calls


def main() -> None:
    """Print the table for the default model."""
    path = default_model(Path("models"))
    if path is None:
        sys.exit("the default model is not installed: use `make bench`")
    print(table(measure(path, usable_cores())))


if __name__ == "__main__":
    main()
