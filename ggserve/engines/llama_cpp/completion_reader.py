"""Reads the stream of llama-server's `/completion`."""

from collections.abc import Iterator
from typing import Any

import orjson

from ggserve.engines.llama_cpp.transport import Chunk

# Some builds end an answer whose text is not UTF-8 with this error, in place of its last piece.
_BROKEN_TEXT = "does not match the expected Content-only format"
_LONGEST_CHARACTER = 4  # bytes, and an upper limit of tokens


class CompletionReader:
    """Turns the response of `/completion` into chunks of `/v1/completions`."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.begun = False  # text has arrived
        self.complete = False
        self._streamed = bool(body.get("stream"))
        prompt = body["prompt"]
        self._prompt_tokens = len(prompt) if isinstance(prompt, list) else 0
        self._told_progress = False
        self._pieces = self._predicted = 0
        self._most = body.get("n_predict", 0)
        self._buffer = b""

    def feed(self, part: bytes) -> Iterator[Chunk]:
        """Return the chunks that are complete with this part of the response."""
        self._buffer += part
        if not self._streamed or self._buffer[:1] == b"{":  # an error is not streamed
            return
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            if line.startswith(b"data: {"):
                yield from self._chunks(orjson.loads(line[6:]))
            elif line.startswith(b"error: {"):  # in the form of older builds
                yield {"error": orjson.loads(line[7:])}

    def rest(self) -> Iterator[Chunk]:
        """Return the chunks of an answer that was not streamed."""
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
