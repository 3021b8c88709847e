"""llama.cpp's server core in a child process: the user's own llama-server, over its HTTP API.

It gets token ids at `/completion` and grammars in GBNF, which every build knows, and never a chat: what a request means
does not depend on its version.
"""

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any, Literal

import orjson

from ggserve.engines.llama_cpp.build import Build
from ggserve.engines.llama_cpp.completion_reader import CompletionReader
from ggserve.engines.llama_cpp.listener import whole_answer
from ggserve.engines.llama_cpp.process import LlamaServer
from ggserve.engines.llama_cpp.transport import Chunk, ServerPlan
from ggserve.engines.request import BEAT
from ggserve.errors import EngineError, GenerationError, InvalidRequest
from ggserve.machine import Hardware

log = logging.getLogger("ggserve.model")

_NOTICED = 30.0  # seconds within which a llama-server notices that a request was broken off: two batches of a prompt


class Child:
    """A llama-server that has loaded a model. See Transport."""

    grammar_language: Literal["gbnf"] = "gbnf"

    def __init__(self, build: Build, plan: ServerPlan) -> None:
        """Start it. Raises EngineError."""
        self._build = build
        self._server = LlamaServer(build, plan)
        self._shares_cache = plan.options.shared_tokens is not None
        self._tells_logprobs = True
        self.embeds = True
        if not plan.whole_inputs and plan.pooling != "rank":
            try:
                self._try_out()
            except EngineError:
                self._server.close()
                raise
        if lacks := self._server.command_line.lacks:
            log.warning("LLAMA_SERVER=%s lacks %s", build.path, ", ".join(lacks))

    @property
    def media_marker(self) -> str:
        """See Transport."""
        return self._server.listener.media_marker

    @property
    def hardware(self) -> Hardware:
        """See Transport."""
        server = self._server
        return Hardware(
            f"llama-server {self._build.version} ({self._build.path})",
            self._build.devices if server.offloaded else (),
            server.offloaded,
            server.fallback,
        )

    def complete(
        self, body: dict[str, Any], receive: Callable[[Chunk], bool], cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        """See Transport."""
        if "n_probs" in body and not self._tells_logprobs:
            raise InvalidRequest(f"This llama-server ({self._build.version}) does not report logprobs.", "logprobs")
        try:
            request = orjson.dumps(body)
        except TypeError as error:
            raise InvalidRequest(f"The request cannot be passed on to llama.cpp: {error}") from error
        reader = CompletionReader(body)
        try:
            with closing(self._server.stream("/completion", request, cancelled)) as parts:
                ended = self._read(parts, reader, receive)
        except (OSError, EOFError) as error:
            raise GenerationError("llama-server crashed while it answered; see model.log.") from error
        if self._shares_cache and (cancelled() or (ended and not reader.complete)):
            self._wait_until_idle(body.get("id_slot"))
        for chunk in () if ended else reader.rest():
            receive(chunk)

    @staticmethod
    def _read(parts: Iterable[bytes], reader: CompletionReader, receive: Callable[[Chunk], bool]) -> bool:
        """Pass on the chunks of an answer. Return whether it is complete, or was broken off by `receive`."""
        for part in parts:
            if any(receive(chunk) for chunk in reader.feed(part)) or reader.complete:
                return True
            if reader.begun:
                time.sleep(BEAT)  # data that arrives in the meantime is read at once
        return False

    def _wait_until_idle(self, slot: int | None) -> None:
        """Wait until a slot has noticed that its request was broken off. Until then it fills the shared cache further,
        and llama-server fails all requests when that is full."""
        deadline = time.monotonic() + _NOTICED
        while time.monotonic() < deadline:
            try:
                slots = self._server.listener.slots()
            except EngineError:  # a crash, or a build that does not tell
                return
            if not any(each["id"] == slot and each.get("is_processing") for each in slots):
                return
            time.sleep(BEAT)

    def compute(self, path: str, body: dict[str, Any], cancelled: Callable[[], bool]) -> dict[str, Any]:
        """See Transport."""
        try:
            return whole_answer(self._server.stream(path, orjson.dumps(body), cancelled))
        except (OSError, EOFError) as error:
            raise GenerationError("llama-server died while it answered; model.log may tell why.") from error

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """See Transport."""
        self._server.wait()
        return self._server.listener.post(path, body)

    def when_failed(self, callback: Callable[[str], object]) -> None:
        """See Transport."""
        self._server.when_failed(callback)

    def when_restarted(self, callback: Callable[[], object]) -> None:
        """See Transport."""
        self._server.when_restarted(callback)

    def close(self) -> None:
        """See Transport."""
        self._server.close()

    def _try_out(self) -> None:
        """Find out by a short answer what the build lacks. Raises EngineError."""
        body = {"prompt": [0], "n_predict": 1, "stream": True, "return_progress": True, "n_probs": 1}
        lacks = self._server.command_line.lacks
        chunks = self._trial(body)
        if any("embedding" in str(chunk.get("error", "")) for chunk in chunks):
            lacks.append("embeddings together with completions")
            self.embeds = False
            self._server.command_line.leave_out_embeddings()
            self._server.restart()
            chunks = self._trial(body)
        if error := next((chunk["error"] for chunk in chunks if "error" in chunk), None):
            raise EngineError(f"LLAMA_SERVER={self._build.path} does not answer a short prompt: {error}")
        if not any(chunk.get("prompt_progress", {}).get("processed") is not None for chunk in chunks):
            lacks.append("prompt progress")
        scores = [choice["logprobs"] for chunk in chunks for choice in chunk.get("choices", ()) if choice["logprobs"]]
        if not any("id" in entry and "logprob" in entry for score in scores for entry in score["content"]):
            lacks.append("logprobs")
            self._tells_logprobs = False

    def _trial(self, body: dict[str, Any]) -> list[Chunk]:
        chunks: list[Chunk] = []

        def receive(chunk: Chunk) -> bool:
            chunks.append(chunk)
            return False

        self.complete(body, receive)
        return chunks
