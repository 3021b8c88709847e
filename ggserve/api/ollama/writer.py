"""Writes an answer as Ollama's lines of JSON, or as one object."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

import orjson
from fastapi import Response

from ggserve.api.answer import Block
from ggserve.api.answers import Answers, Piece
from ggserve.api.errors import APIError
from ggserve.api.fragments import Fragments
from ggserve.api.ollama.errors import ollama_envelope
from ggserve.api.openai.objects import chat_logprobs
from ggserve.api.record import RequestRecord
from ggserve.api.streaming import Waiting, Writer, json_response


def now() -> str:
    """Return the current time in Ollama's format."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class OllamaWriter(Writer):
    """Writes a message if `chat`, else a text. A tool call is sent as a whole."""

    media_type = "application/x-ndjson"

    def __init__(self, model_name: str, record: RequestRecord, *, chat: bool, scored: bool = False) -> None:
        self._line = partial(_line, model_name, chat)
        self._scored = scored
        self._logprobs = Fragments()
        self._received, self._began = record.started, time.perf_counter()
        self.keep_alive = _written(self._line())

    def piece(self, piece: Piece) -> Iterator[bytes]:
        logprobs = chat_logprobs(piece.delta.tokens) if self._scored else []
        for what, block, text in piece.steps:
            if what == "end" and block.kind == "call":
                yield _written(self._line(calls=[block]))
            elif what == "piece" and block.kind == "text":
                yield _written(self._line(text, logprobs=logprobs))
                logprobs = []
            elif what == "piece" and block.kind == "reasoning":
                yield _written(self._line(thinking=text))

    def collect(self, piece: Piece) -> None:
        if self._scored:
            self._logprobs.add(chat_logprobs(piece.delta.tokens))

    def end(self, answers: Answers) -> Iterator[bytes]:
        yield _written({**self._line(), **self._ending(answers)})

    def fail(self, error: APIError) -> Iterator[bytes]:
        yield _written(ollama_envelope(error))

    def whole(self, answers: Answers) -> Response:
        answer = answers.all[0]
        logprobs = self._logprobs.json if self._scored else None
        line = self._line(answer.text, thinking=answer.reasoning, calls=answer.calls, logprobs=logprobs)
        return json_response({**line, **self._ending(answers)})

    def empty(self, reason: Literal["load", "unload"]) -> Response:
        """Return the response to a request that only loads or unloads the model."""
        return json_response({**self._line(), "done": True, "done_reason": reason})

    def _ending(self, answers: Answers) -> dict[str, Any]:
        """Return counts, and durations in nanoseconds: until the model was loaded, until the first text, and since
        then."""
        first, last, ended = answers.all[0].first_at, answers.all[0].last, time.perf_counter()
        return {
            "done": True,
            "done_reason": "length" if last.finish_reason == "length" else "stop",
            "total_duration": _nanoseconds(ended - self._received),
            "load_duration": _nanoseconds(self._began - self._received),
            "prompt_eval_count": last.prompt_tokens,
            "prompt_eval_duration": _nanoseconds(first - self._began),
            "eval_count": last.completion_tokens,
            "eval_duration": _nanoseconds(ended - first),
        }


def waiting(model_name: str, *, chat: bool) -> Waiting:
    """Return what a stream sends while its model is loading."""
    alive = _written(_line(model_name, chat))
    return Waiting(alive, lambda body: body + b"\n", OllamaWriter.media_type)


def _line(
    model_name: str,
    chat: bool,
    text: str = "",
    *,
    thinking: str = "",
    calls: list[Block] | None = None,
    logprobs: Any = None,
) -> dict[str, Any]:
    thought = {"thinking": thinking} if thinking else {}
    if chat:
        message: dict[str, Any] = {"role": "assistant", "content": text, **thought}
        if calls:
            message["tool_calls"] = [_call(block) for block in calls]
        said: dict[str, Any] = {"message": message}
    else:
        said = {"response": text, **thought}
    scores = {"logprobs": logprobs} if logprobs else {}
    return {"model": model_name, "created_at": now(), **said, **scores, "done": False}


def _written(item: dict[str, Any]) -> bytes:
    return orjson.dumps(item) + b"\n"


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _call(block: Block) -> dict[str, Any]:
    return {"id": block.id, "function": {"name": block.name, "arguments": block.arguments}}
