"""llama.cpp's `/completion`, which takes images, and token ids beside a projector; its Python interface does not.

The listener streams it; its chunks get the form of the Python interface's.
"""

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from ggserve.engines.llama_cpp.listener import PrivateListener
from ggserve.generation import MediaPrompt

_PREFIX = b"data: "


def media_prompt(prompt: Sequence[int] | MediaPrompt) -> Any:
    """A prompt as `/completion` takes it."""
    if isinstance(prompt, MediaPrompt):
        return {"prompt_string": prompt.text, "multimodal_data": list(prompt.images)}
    return list(prompt)


def stream_completion(listener: PrivateListener, body: bytes, receive: Callable[[bytes], bool]) -> None:
    """Passes on chunks until `receive` returns True. Blocks. Raises EngineError."""
    for line in listener.stream("/completion", body):
        chunk = orjson.loads(line.removeprefix(_PREFIX).removeprefix(b"error: "))
        if receive(orjson.dumps(_as_openai(chunk))):
            return


def _as_openai(chunk: dict[str, Any]) -> dict[str, Any]:
    """A chunk of `/completion` as one of `/v1/completions`."""
    if "content" not in chunk:
        return chunk if "error" in chunk else {"error": chunk}
    if "prompt_progress" in chunk:
        return {"prompt_progress": chunk["prompt_progress"]}
    ended = chunk.get("stop")
    reason = ("length" if chunk.get("stop_type") == "limit" else "stop") if ended else None
    scores = chunk.get("completion_probabilities")
    choice = {"text": chunk["content"], "finish_reason": reason, "logprobs": scores and {"content": scores}}
    usage = {"usage": {"completion_tokens": chunk["tokens_predicted"]}} if ended else {}
    return {"choices": [choice], "timings": chunk.get("timings"), **usage}
