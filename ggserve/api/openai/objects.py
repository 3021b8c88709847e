"""What OpenAI's response objects have in common: usage, and how tokens with log-probabilities look."""

import codecs
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from ggserve.api.answers import Usage
from ggserve.api.fragments import Fragments
from ggserve.generation import ScoredToken


def usage_object(usage: Usage) -> dict[str, Any]:
    """OpenAI's usage object; its `completion_tokens_details` where tokens were guessed ahead."""
    guesses = {
        "accepted_prediction_tokens": usage.accepted_tokens,
        "rejected_prediction_tokens": usage.rejected_tokens,
    }
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        **({"completion_tokens_details": guesses} if any(guesses.values()) else {}),
    }


def chat_logprobs(tokens: Sequence[ScoredToken]) -> list[dict[str, Any]]:
    """The log-probabilities of the tokens that make a chat's text."""
    return [
        {**_chat_token(token), "top_logprobs": [_chat_token(other) for other in token.top]}
        for token in tokens
        if not token.control
    ]


def _chat_token(token: ScoredToken) -> dict[str, Any]:
    return {"token": _text(token, ""), "logprob": token.logprob, "bytes": list(token.bytes)}


class CompletionLogprobs:
    """The `logprobs` of one choice of a completion, piece by piece. `text_offset` counts the characters of its text."""

    def __init__(self) -> None:
        self._offset = 0
        self._kept: defaultdict[str, Fragments] = defaultdict(Fragments)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def of(self, tokens: Sequence[ScoredToken]) -> dict[str, Any]:
        """The object for the next tokens."""
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            if not token.control:
                self._offset += len(self._decoder.decode(token.bytes))
        return {
            "tokens": [_text(token, "bytes:") for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [_top(token) for token in tokens],
            "text_offset": offsets,
        }

    def keep(self, scores: dict[str, Any]) -> None:
        """Append the object of some tokens to `json`."""
        for name, values in scores.items():
            self._kept[name].add(values)

    @property
    def json(self) -> dict[str, Any]:
        """The object for all tokens that were kept."""
        return {name: values.json for name, values in self._kept.items()}


def _top(token: ScoredToken) -> dict[str, float | None] | None:
    """By text, the likeliest tokens, and the one that came."""
    if token.logprob is None:
        return None
    return {_text(other, "bytes:"): other.logprob for other in (token, *token.top)} if token.top else {}


def _text(token: ScoredToken, prefix: str) -> str:
    """The token's text; one that holds parts of characters is spelled byte by byte."""
    try:
        return token.bytes.decode()
    except UnicodeDecodeError:
        return prefix + "".join(f"\\x{byte:02x}" for byte in token.bytes)
