"""An answer's deltas as Ollama's lines of JSON, and as one."""

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import orjson

from ggserve.api.access import RequestRecord
from ggserve.api.blocks import Block, Blocks
from ggserve.api.errors import api_error
from ggserve.api.ollama.errors import ollama_envelope
from ggserve.api.openai.objects import chat_logprobs
from ggserve.generation import Delta


def now() -> str:
    """The time in Ollama's spelling."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class OllamaAnswer:
    """An answer in the making: of a chat a message, else a text."""

    def __init__(self, model_name: str, record: RequestRecord, *, chat: bool, scored: bool) -> None:
        self._model_name = model_name
        self._chat = chat
        self._scored = scored
        self._received, self._began = record.started, time.perf_counter()
        self._first: float | None = None
        self._blocks = Blocks()
        self._logprobs: list[dict[str, Any]] = []
        self._last: Delta | None = None

    def take(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """The lines of a delta. A call comes as a whole."""
        self._first = self._first or time.perf_counter()
        self._last = delta
        logprobs = chat_logprobs(delta.tokens)["content"] if self._scored else []
        self._logprobs += logprobs
        for step in self._blocks.take(delta):
            if step.what == "end" and step.block.kind == "call":
                yield self._line(calls=[step.block])
            elif step.what == "piece" and step.block.kind == "text":
                yield self._line(step.piece, logprobs=logprobs)
                logprobs = []
            elif step.what == "piece" and step.block.kind == "reasoning":
                yield self._line(thinking=step.piece)

    def end(self) -> Iterator[dict[str, Any]]:
        """The lines after the last delta."""
        for step in self._blocks.end():
            if step.block.kind == "call":
                yield self._line(calls=[step.block])
        yield {**self._line(), **self._ending()}

    @property
    def whole(self) -> dict[str, Any]:
        """The answer in one."""
        texts = {
            kind: "".join(block.text for block in self._blocks.all if block.kind == kind)
            for kind in ("text", "reasoning")
        }
        calls = [block for block in self._blocks.all if block.kind == "call"]
        line = self._line(texts["text"], thinking=texts["reasoning"], calls=calls, logprobs=self._logprobs)
        return {**line, **self._ending()}

    def empty(self, reason: str) -> dict[str, Any]:
        """The answer to a request that only loads or unloads the model."""
        return {**self._line(), "done": True, "done_reason": reason}

    def _line(
        self,
        text: str = "",
        *,
        thinking: str = "",
        calls: list[Block] | None = None,
        logprobs: list[dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        thought = {"thinking": thinking} if thinking else {}
        if self._chat:
            message: dict[str, Any] = {"role": "assistant", "content": text, **thought}
            if calls:
                message["tool_calls"] = [_call(block) for block in calls]
            said: dict[str, Any] = {"message": message}
        else:
            said = {"response": text, **thought}
        scores = {"logprobs": logprobs} if logprobs else {}
        return {"model": self._model_name, "created_at": now(), **said, **scores, "done": False}

    def _ending(self) -> dict[str, Any]:
        """Counts, and durations in nanoseconds: until the model was there, until the first text, and since then."""
        assert self._last is not None and self._first is not None
        ended = time.perf_counter()
        return {
            "done": True,
            "done_reason": "length" if self._last.finish_reason == "length" else "stop",
            "total_duration": _nanoseconds(ended - self._received),
            "load_duration": _nanoseconds(self._began - self._received),
            "prompt_eval_count": self._last.prompt_tokens,
            "prompt_eval_duration": _nanoseconds(self._first - self._began),
            "eval_count": self._last.completion_tokens,
            "eval_duration": _nanoseconds(ended - self._first),
        }


async def lines(deltas: AsyncGenerator[Delta, None], answer: OllamaAnswer) -> AsyncGenerator[bytes, None]:
    """The answer's lines as they come; an error on the way is the last."""
    try:
        async with aclosing(deltas):
            async for delta in deltas:
                for item in answer.take(delta):
                    yield _written(item)
        for item in answer.end():
            yield _written(item)
    except Exception as error:
        yield _written(ollama_envelope(api_error(error)))


async def collected(deltas: AsyncGenerator[Delta, None], answer: OllamaAnswer) -> dict[str, Any]:
    """The answer in one, once it is complete."""
    async with aclosing(deltas):
        async for delta in deltas:
            for _ in answer.take(delta):
                pass
    return answer.whole


def _written(item: dict[str, Any]) -> bytes:
    return orjson.dumps(item) + b"\n"


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _call(block: Block) -> dict[str, Any]:
    return {"id": block.id, "function": {"name": block.name, "arguments": block.arguments}}
