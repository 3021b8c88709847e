"""llama.cpp's server core in a child process: the user's own llama-server, over its HTTP API.

It gets token ids at `/completion` and grammars in GBNF, which every build knows, and never a chat: what a request means
does not depend on its version.
"""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import orjson

from ggserve.engines.llama_cpp.build import Build
from ggserve.engines.llama_cpp.process import LlamaServer
from ggserve.engines.llama_cpp.transport import Chunk, ServerPlan
from ggserve.engines.request import BEAT
from ggserve.errors import EngineError, GenerationError, InvalidRequest
from ggserve.machine import Hardware

# Some builds end an answer whose text is no UTF-8 with this error, in place of its last piece.
_BROKEN_TEXT = "does not match the expected Content-only format"
_LONGEST_CHARACTER = 4  # bytes, and tokens at most

log = logging.getLogger("ggserve.model")


class Child:
    """A llama-server that has loaded a model. See Transport."""

    grammar_language: Literal["gbnf"] = "gbnf"

    def __init__(self, build: Build, plan: ServerPlan) -> None:
        """Start it. Raises EngineError."""
        self._build = build
        self._server = LlamaServer(build, plan)
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
        reader = _Reader(body)
        try:
            for part in self._server.stream("/completion", request, cancelled):
                if any(receive(chunk) for chunk in reader.feed(part)) or reader.complete:
                    return
                if reader.begun:
                    time.sleep(BEAT)  # what comes meanwhile is read at once
        except (OSError, EOFError) as error:
            raise GenerationError("llama-server died while it answered; model.log may tell why.") from error
        for chunk in reader.rest():
            receive(chunk)

    def embed(self, body: dict[str, Any]) -> dict[str, Any]:
        """See Transport."""
        return self._ask("/v1/embeddings", body)

    def rerank(self, body: dict[str, Any]) -> dict[str, Any]:
        """See Transport."""
        return self._ask("/v1/rerank", body)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """See Transport."""
        self._server.wait()
        return self._server.listener.post(path, body)

    def when_failed(self, callback: Callable[[str], object]) -> None:
        """See Transport."""
        self._server.when_failed(callback)

    def close(self) -> None:
        """See Transport."""
        self._server.close()

    def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self._server.wait()
        answer: dict[str, Any] = self._server.listener.ask(path, body)
        return answer

    def _try_out(self) -> None:
        """Find out by a short answer what the build lacks. Raises EngineError."""
        body = {"prompt": [0], "n_predict": 1, "stream": True, "return_progress": True, "n_probs": 1}
        lacks = self._server.command_line.lacks
        chunks = self._trial(body)
        if any("embedding" in str(chunk.get("error", "")) for chunk in chunks):
            lacks.append("embeddings beside completions")
            self.embeds = False
            self._server.command_line.leave_out_embeddings()
            self._server.restart()
            chunks = self._trial(body)
        if error := next((chunk["error"] for chunk in chunks if "error" in chunk), None):
            raise EngineError(f"LLAMA_SERVER={self._build.path} does not answer a short prompt: {error}")
        if not any(chunk.get("prompt_progress", {}).get("processed") is not None for chunk in chunks):
            lacks.append("progress of prompts")
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


class _Reader:
    """Reads what `/completion` answers as the chunks of `/v1/completions`."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.begun = False  # whether text has come
        self.complete = False
        self._streamed = bool(body.get("stream"))
        prompt = body["prompt"]
        self._prompt_tokens = len(prompt) if isinstance(prompt, list) else 0
        self._told_progress = False
        self._pieces = self._predicted = 0
        self._most = body.get("n_predict", 0)
        self._buffer = b""

    def feed(self, part: bytes) -> Iterator[Chunk]:
        """The chunks that are complete with this part of the answer's body."""
        self._buffer += part
        if not self._streamed or self._buffer[:1] == b"{":  # an error is not streamed
            return
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            if line.startswith(b"data: {"):
                yield from self._chunks(orjson.loads(line[6:]))
            elif line.startswith(b"error: {"):  # as older builds write it
                yield {"error": orjson.loads(line[7:])}

    def rest(self) -> Iterator[Chunk]:
        """The chunks of an answer that was not streamed."""
        if self._buffer.strip():
            yield from self._chunks(orjson.loads(self._buffer))

    def _chunks(self, piece: dict[str, Any]) -> Iterator[Chunk]:
        if "error" in piece and _BROKEN_TEXT in str(piece["error"]):
            cut = self._predicted + _LONGEST_CHARACTER > self._most  # the last tokens came in no piece
            piece = {"stop": True, "stopped_limit": cut, "timings": {"predicted_n": self._predicted}}
        elif "error" in piece:
            yield {"error": piece["error"]}
            return
        if "prompt_progress" in piece:
            self._told_progress = True
            yield {"prompt_progress": piece["prompt_progress"]}
            return
        last = bool(piece.get("stop"))
        timings = dict(piece.get("timings", {}))
        if not self._told_progress and (last or not self.begun):
            total = piece.get("tokens_evaluated", self._prompt_tokens)
            cached = timings.get("cache_n", total - timings["prompt_n"] if "prompt_n" in timings else 0)
            yield {"prompt_progress": {"total": total, "cache": max(0, cached)}}
        self.begun = True
        self.complete = last
        self._pieces += not last
        self._predicted = timings.setdefault("predicted_n", piece.get("tokens_predicted", self._pieces))
        limited = piece.get("stop_type") == "limit" or piece.get("stopped_limit")
        scores = piece.get("completion_probabilities")
        chunk: Chunk = {
            "choices": [
                {
                    "text": piece.get("content", ""),
                    "finish_reason": ("length" if limited else "stop") if last else None,
                    "logprobs": {"content": scores} if scores else None,
                }
            ],
            "timings": timings,
        }
        if last:
            chunk["usage"] = {"completion_tokens": piece.get("tokens_predicted", timings["predicted_n"])}
        yield chunk
