"""Writes an answer as a response of the Responses API, or as its events."""

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import Response

from ggserve.api.answer import Answer, Block, Step
from ggserve.api.answers import Answers, Piece
from ggserve.api.errors import APIError
from ggserve.api.fragments import Fragments
from ggserve.api.openai.objects import chat_logprobs
from ggserve.api.openai.responses.items import new_id
from ggserve.api.openai.responses.schemas import Callable as Tool
from ggserve.api.openai.responses.schemas import ResponsesRequest
from ggserve.api.prompts import cache_miss
from ggserve.api.streaming import Writer, event, json_response
from ggserve.generation import Delta, SamplingParams

_TYPES = {"text": "message", "reasoning": "reasoning", "call": "function_call"}
_STREAMED = {"text": "output_text", "reasoning": "reasoning_text", "call": "function_call_arguments"}


@dataclass
class _Item:
    """An output item in progress: a block, and the fields that the Responses API adds."""

    block: Block
    id: str
    called: Tool | None = None  # the called tool
    logprobs: Fragments = field(default_factory=Fragments)

    @property
    def type(self) -> str:
        """The type of the item."""
        return "custom_tool_call" if self.is_custom else _TYPES[self.block.kind]

    @property
    def is_custom(self) -> bool:
        """True for a call of a free-text tool."""
        return self.called is not None and self.called.tool.type == "custom"

    @property
    def part(self) -> dict[str, Any]:
        """Return the single content part of a message or of reasoning."""
        if self.block.kind == "reasoning":
            return {"type": "reasoning_text", "text": self.block.text}
        return {"type": "output_text", "text": self.block.text, "annotations": [], "logprobs": self.logprobs.json}

    @property
    def input(self) -> str:
        """The free text of a tool call."""
        return str(self.block.arguments.get("input", ""))

    def as_json(self, status: str) -> dict[str, Any]:
        head = {"id": self.id, "type": self.type, "status": status}
        if self.block.kind == "call":
            said = {"input": self.input} if self.is_custom else {"arguments": self.block.text}
            name = (self.called and self.called.tool.name) or self.block.name
            namespace = {"namespace": self.called.namespace} if self.called and self.called.namespace else {}
            return {**head, "call_id": self.block.id, "name": name, **namespace, **said}
        content = [] if status == "in_progress" else [self.part]
        return {**head, **({"role": "assistant"} if self.block.kind == "text" else {"summary": []}), "content": content}


class ResponseWriter(Writer):
    """Writes a response. `finished` receives it when it is complete."""

    def __init__(
        self,
        request: ResponsesRequest,
        params: SamplingParams,
        model_name: str,
        finished: Callable[[dict[str, Any]], None],
    ) -> None:
        self.response = _new_response(request, params, model_name)
        self._finished = finished
        self._scored = request.scored
        self._callables = {each.name: each for each in request.callables}
        self._items: list[_Item] = []
        self._pending: list[dict[str, Any]] = []  # log-probabilities of tokens whose text is still held back
        self._count = 0  # number of events

    def begin(self, answers: Answers, first: Delta) -> Iterator[bytes]:
        for kind in ("response.created", "response.in_progress"):
            yield _written(self._event(kind, response=self.response))

    def piece(self, piece: Piece) -> Iterable[bytes]:
        return map(_written, self._events_of(piece))

    def collect(self, piece: Piece) -> None:
        deque(self._events_of(piece), maxlen=0)

    def end(self, answers: Answers) -> Iterable[bytes]:
        return map(_written, self._last_events(answers.all[0]))

    def whole(self, answers: Answers) -> Response:
        deque(self._last_events(answers.all[0]), maxlen=0)
        return json_response(self.response)

    def fail(self, error: APIError) -> Iterator[bytes]:
        code = "invalid_prompt" if error.status < 500 else "server_error"
        self.response = {**self.response, "status": "failed", "error": {"code": code, "message": str(error)}}
        yield _written(self._event("response.failed", response=self.response))

    def _events_of(self, piece: Piece) -> Iterator[dict[str, Any]]:
        answer, delta, steps, _ = piece
        if self._scored and not (delta.reasoning or delta.tool_calls):
            self._pending += chat_logprobs(delta.tokens)
        for step in steps:
            is_last = delta.finish_reason and step.block is answer.blocks[-1]
            yield from self._item_events(step, _status(answer) if is_last else "completed")

    def _last_events(self, answer: Answer) -> Iterator[dict[str, Any]]:
        last, status = answer.last, _status(answer)
        if not answer.blocks:  # clients expect a message
            for step in (Step("start", _EMPTY), Step("end", _EMPTY)):
                yield from self._item_events(step, status)
        usage = {
            "input_tokens": last.prompt_tokens,
            "input_tokens_details": {
                "cached_tokens": last.cached_tokens,
                "cache_write_tokens": 0,
                **cache_miss(last.cache_miss),
            },
            "output_tokens": last.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
            "total_tokens": last.prompt_tokens + last.completion_tokens,
        }
        self.response = {**self.response, "status": status, "completed_at": int(time.time()), "usage": usage}
        self.response |= last.confidence or {}
        if status == "incomplete":
            self.response |= {"incomplete_details": {"reason": "max_output_tokens"}, "completed_at": None}
        self._finished(self.response)
        yield self._event(f"response.{status}", response=self.response)

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        self._count += 1
        return {"type": kind, "sequence_number": self._count - 1, **fields}

    def _item_events(self, step: Step, status: str) -> Iterator[dict[str, Any]]:
        block = step.block
        if step.what == "start":
            called = self._callables.get(block.name)
            kind = "custom_tool_call" if called and called.tool.type == "custom" else _TYPES[block.kind]
            item = _Item(block, new_id(kind), called)
            self._items.append(item)
            yield self._event("response.output_item.added", output_index=block.index, item=item.as_json("in_progress"))
        item = self._items[block.index]
        place = {"item_id": item.id, "output_index": block.index}
        streamed = f"response.{_STREAMED[block.kind]}"
        if item.is_custom:
            if step.what == "end":
                yield self._event("response.custom_tool_call_input.delta", **place, delta=item.input)
                yield self._event("response.custom_tool_call_input.done", **place, input=item.input)
        elif block.kind == "call":
            if step.what == "piece":
                yield self._event(f"{streamed}.delta", **place, delta=step.piece)
            elif step.what == "end":
                yield self._event(f"{streamed}.done", **place, name=block.name, arguments=block.text)
        else:
            place["content_index"] = 0
            if step.what == "start":
                yield self._event("response.content_part.added", **place, part=item.part)
            elif step.what == "piece":
                yield self._event(f"{streamed}.delta", **place, delta=step.piece, **self._scores(item))
            else:
                scores = self._scores(item) and {"logprobs": item.logprobs.json}
                yield self._event(f"{streamed}.done", **place, text=block.text, **scores)
                yield self._event("response.content_part.done", **place, part=item.part)
        if step.what == "end":
            done = item.as_json(status)
            self.response = {**self.response, "output": [*self.response["output"], done]}
            yield self._event("response.output_item.done", output_index=block.index, item=done)

    def _scores(self, item: _Item) -> dict[str, Any]:
        """Return the log-probabilities since the item's last text; none for reasoning."""
        if item.block.kind != "text":
            return {}
        new, self._pending = self._pending, []
        item.logprobs.add(new)
        return {"logprobs": new}


_EMPTY = Block("text", 0)


def _written(item: dict[str, Any]) -> bytes:
    return event(item, item["type"])


def _status(answer: Answer) -> str:
    return "incomplete" if answer.last.finish_reason == "length" else "completed"


def _new_response(request: ResponsesRequest, params: SamplingParams, model_name: str) -> dict[str, Any]:
    """Return a response without output, with the request's parameters."""
    given = request.model_dump(by_alias=True)
    echoed = (
        *("instructions", "max_output_tokens", "max_tool_calls", "metadata", "previous_response_id", "reasoning"),
        *("prompt_cache_key", "safety_identifier", "store", "tools", "truncation", "user"),
    )
    choice = request.tool_choice
    plain = choice.type in ("none", "auto", "required")
    return {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "model": model_name,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "completed_at": None,
        "output": [],
        "usage": None,
        **{name: given[name] for name in echoed},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "service_tier": "default",
        "text": request.text.model_dump(by_alias=True, exclude_none=True),
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_logprobs": request.top_logprobs or 0,
        "tool_choice": choice.type if plain else choice.model_dump(exclude_unset=True),
    }
