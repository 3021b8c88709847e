"""Reads the stream of llama-server's `/completion`, or of its `/v1/completions`."""

from collections.abc import Iterator
from typing import Any

import orjson

from ggserve.engines.llama_cpp.transport import Chunk

# Some builds end an answer whose text is not UTF-8 with this error, in place of its last piece.
_BROKEN_TEXT = "does not match the expected Content-only format"
_LONGEST_CHARACTER = 4  # bytes, and an upper limit of tokens


class CompletionReader:
    """Turns the response into chunks as xllamacpp makes them: those of `/v1/completions` with progress and timings."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.begun = False  # text has arrived
        self.complete = False
        self._streamed = bool(body.get("stream"))
        prompt = body["prompt"]
        self._prompt_tokens = len(prompt) if isinstance(prompt, list) else 0
        self._told_progress = False
        self._pieces = self._predicted = 0
        self._counted = False  # the pieces say how many tokens were predicted
        self._text = ""  # of the last piece
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
            piece = {
                "content": "",
                "stop": True,
                "stop_type": "limit" if cut else "eos",
                "tokens_predicted": self._predicted,
            }
        elif "error" in piece:
            yield {"error": piece["error"]}
            return
        if "prompt_progress" in piece:
            self._told_progress = True
            yield {"prompt_progress": piece["prompt_progress"]}
            return
        if choices := piece.get("choices"):
            piece = self._native(piece, choices[0])
        yield from self._answer(piece)

    def _native(self, piece: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
        """Return a piece of `/v1/completions` in the form of `/completion`."""
        scores = (choice.get("logprobs") or {}).get("content")
        native = {
            "content": choice["text"],
            "stop": choice["finish_reason"] is not None,
            "completion_probabilities": scores,
            "timings": piece.get("timings", {}),
            "tokens_evaluated": self._prompt_tokens,
        }
        if native["stop"]:
            made = piece.get("usage", {}).get("completion_tokens", native["timings"].get("predicted_n", self._pieces))
            # Some builds call every end a stop. A token that ends an answer has a piece, without text.
            ended = not self._most or made < self._most or (self._predicted == made and not self._text)
            limited = choice["finish_reason"] == "length" or not ended
            native |= {"tokens_predicted": made, "stop_type": "limit" if limited else "eos"}
        return native

    def _answer(self, piece: dict[str, Any]) -> Iterator[Chunk]:
        last = bool(piece.get("stop"))
        timings = dict(piece.get("timings", {}))
        if not self._told_progress and (last or not self.begun):
            total = piece.get("tokens_evaluated", self._prompt_tokens)
            cached = timings.get("cache_n", total - timings["prompt_n"] if "prompt_n" in timings else 0)
            yield {"prompt_progress": {"total": total, "cache": max(0, cached)}}
        self.begun = True
        self.complete = last
        self._pieces += not last
        self._counted |= "predicted_n" in timings and not last
        made = timings.setdefault("predicted_n", piece.get("tokens_predicted", self._pieces))
        if last and not self._counted and made > self._predicted > 0:
            yield _chunk("", {**timings, "predicted_n": made})  # its pieces may have had several tokens
        self._predicted, self._text = made, piece.get("content", "")
        limited = piece.get("stop_type") == "limit" or piece.get("stopped_limit")
        scores = piece.get("completion_probabilities")
        reason = ("length" if limited else "stop") if last else None
        chunk = _chunk(self._text, timings, reason, scores)
        if last:
            chunk["usage"] = {"completion_tokens": piece.get("tokens_predicted", made)}
        yield chunk


def _chunk(text: str, timings: dict[str, Any], reason: str | None = None, scores: Any = None) -> Chunk:
    choice = {"text": text, "finish_reason": reason, "logprobs": {"content": scores} if scores else None}
    return {"choices": [choice], "timings": timings}
