"""The record of a request: its id, its line in the log, and its part of the metrics."""

import json
import logging
import re
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from ggserve.api.limits import Limits, with_time_limits
from ggserve.api.metrics import Metrics
from ggserve.api.middleware import HTTPMiddleware
from ggserve.api.state import state_of
from ggserve.generation import Delta, SamplingParams
from ggserve.prompt_progress import PromptProgress

log = logging.getLogger("ggserve.main")

_CLIENT_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)


class RequestRecord:
    """The facts that the log records about one request."""

    def __init__(self, request_id: str, method: str, path: str, metrics: Metrics, limits: Limits) -> None:
        self.id = request_id
        self.limits = limits
        self._method, self._path = method, path
        self._metrics = metrics
        self.started = time.perf_counter()  # seconds
        self.model = ""  # name, once it is known
        self.prompts: list[PromptProgress] = []
        self._first: float | None = None
        self._tokens_in = self._tokens_cached = self._tokens_out = self._accepted = self._rejected = 0
        self.status = 499  # nginx's status for a client that disconnected before the response

    def watch(
        self, generate: Callable[[SamplingParams], AsyncGenerator[Delta, None]], params: SamplingParams
    ) -> AsyncGenerator[Delta, None]:
        """The deltas of `generate(params)`, counted, and ended when their time is over. A request may have several
        such streams."""
        progress = PromptProgress()
        self.prompts.append(progress)
        return self._watched(generate(replace(params, progress=progress)), progress, params.max_tokens)

    async def _watched(
        self, deltas: AsyncGenerator[Delta, None], progress: PromptProgress, max_tokens: int | None
    ) -> AsyncGenerator[Delta, None]:
        first: Delta | None = None
        began = now = 0.0
        tokens_out: dict[int, int] = {}  # by answer
        guesses: dict[int, tuple[int, int]] = {}
        came: dict[int, float] = {}
        live = self._metrics.begin(deltas, self.model, progress, max_tokens)
        try:
            timed = with_time_limits(deltas, self.limits, self.started, lambda: self._first is not None)
            async with aclosing(timed):
                async for delta in timed:
                    now, index = time.perf_counter(), delta.index
                    if self._first is None:
                        self._first = now
                        self._metrics.first(now - self.started)
                    if first is None:
                        first, began = delta, now
                    if index in came:
                        self._metrics.tokens(delta.completion_tokens - tokens_out[index], now - came[index])
                    tokens_out[index], came[index] = delta.completion_tokens, now
                    guesses[index] = delta.accepted_tokens, delta.rejected_tokens
                    live.completion_tokens = sum(tokens_out.values())
                    yield delta
        finally:
            self._metrics.live.pop(deltas, None)
            if first:
                generated = sum(tokens_out.values())
                self._tokens_in += first.prompt_tokens
                self._tokens_cached += first.cached_tokens
                self._tokens_out += generated
                self._accepted += sum(accepted for accepted, _ in guesses.values())
                self._rejected += sum(rejected for _, rejected in guesses.values())
                self._metrics.ended(first, generated, began - self.started, now - began)

    def end(self, route: str | None) -> None:
        """Record the end of the request, at a route or at none: a line in the log, and the metrics."""
        seconds = time.perf_counter() - self.started
        self._metrics.request(self._method, route or "", self.status, None if self._first is None else seconds)
        facts: dict[str, str | int | float] = {
            "id": self.id,
            "method": self._method,
            "path": self._path,
            "status": self.status,
            "seconds": round(seconds, 3),
        }
        line = f"{self.id} {self._method} {self._path} {self.status} {seconds:.3f} s"
        if self._first is not None:
            first = self._first - self.started
            facts |= {
                "tokens_in": self._tokens_in,
                "tokens_cached": self._tokens_cached,
                "tokens_out": self._tokens_out,
                "first_token_seconds": round(first, 3),
            }
            line += (
                f", {self._tokens_in} tokens in ({self._tokens_cached} cached), {self._tokens_out} out, "
                f"first after {first:.3f} s"
            )
            if self._tokens_out > 1:
                line += f", {(self._tokens_out - 1) / max(seconds - first, 1e-9):.1f} tokens/s"
            if guessed := self._accepted + self._rejected:
                facts |= {"tokens_accepted": self._accepted, "tokens_rejected": self._rejected}
                line += f", {self._accepted} of {guessed} draft tokens accepted"
        elif evaluated := sum(prompt.total for prompt in self.prompts):
            processed = sum(prompt.processed for prompt in self.prompts)
            line += f", {processed} of {evaluated} prompt tokens processed"
        for miss in filter(None, (prompt.miss for prompt in self.prompts)):
            facts |= {"tokens_evaluated_again": miss.tokens, "cache_miss": miss.reason}
            line += f"; {miss}"
        log.info(line, extra={"request": facts})


class RecordMiddleware(HTTPMiddleware):
    """Creates the record of each request (`request.state.record`) and adds `x-request-id` to the response."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = state_of(scope)
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _CLIENT_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        # The path comes from the client: quoted, so that it cannot forge log lines.
        path = json.dumps(scope["path"])[1:-1]
        record = RequestRecord(request_id, scope["method"], path, state.metrics, state.limits)
        scope.setdefault("state", {})["record"] = record
        sent = False

        async def send_with_id(message: Message) -> None:
            nonlocal sent
            if message["type"] == "http.response.start":
                record.status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)
            sent = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            if not sent and record.status < 400:
                record.status = 499  # the client disconnected from a stream
            record.end(getattr(scope.get("route"), "path", None))
