"""Parts of OpenAI's response objects: usage, and tokens with log-probabilities."""

import codecs
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from ggserve import __version__
from ggserve.api.answers import Usage
from ggserve.api.fragments import Fragments
from ggserve.api.prompts import cache_miss
from ggserve.generation import Delta, ScoredToken

FINGERPRINT = f"ggserve-{__version__}"  # `system_fingerprint`: the software that made the answer


def usage_object(usage: Usage) -> dict[str, Any]:
    """Return OpenAI's usage object, with `completion_tokens_details` if speculative decoding was used."""
    guesses = {
        "accepted_prediction_tokens": usage.accepted_tokens,
        "rejected_prediction_tokens": usage.rejected_tokens,
    }
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, **cache_miss(usage.cache_miss)},
        **({"completion_tokens_details": guesses} if any(guesses.values()) else {}),
    }


def chat_logprobs(tokens: Sequence[ScoredToken], *, by_id: bool = False) -> list[dict[str, Any]]:
    """Return the log-probabilities of the tokens in a chat's text, with tokens named `token_id:N` if `by_id`."""
    return [token_entry(token, by_id=by_id) for token in tokens if not token.control]


def token_entry(token: ScoredToken, *, by_id: bool = False) -> dict[str, Any]:
    """Return a token with its id and its alternatives, in the format of OpenAI's chats and llama-server."""
    return {**_chat_token(token, by_id), "top_logprobs": [_chat_token(other, by_id) for other in token.top]}


def prompt_logprobs(tokens: Sequence[ScoredToken], top: int) -> list[dict[str, Any] | None]:
    """Return vLLM's `prompt_logprobs`: by token id, the prompt's token and the `top` most likely ones in its place. A
    token's rank is null if it is not known."""
    entries: list[dict[str, Any] | None] = []
    for token in tokens:
        if token.logprob is None:
            entries.append(None)
            continue
        ranks = {other.id: rank for rank, other in enumerate(token.top, 1)}
        named = {other.id: other for other in (token, *token.top[:top])}
        entries.append(
            {
                str(id): {"logprob": each.logprob, "rank": ranks.get(id), "decoded_token": token_text(each)}
                for id, each in named.items()
            }
        )
    return entries


def stop_reason(delta: Delta) -> dict[str, Any]:
    """Return vLLM's `stop_reason` of a choice: the stop string or the id of the stop token that ended it."""
    reason = delta.stop_sequence if delta.stop_sequence is not None else delta.stop_token
    return {} if reason is None else {"stop_reason": reason}


def _chat_token(token: ScoredToken, by_id: bool) -> dict[str, Any]:
    return {
        "id": token.id,
        "token": token_text(token, by_id=by_id),
        "logprob": token.logprob,
        "bytes": list(token.bytes),
    }


class CompletionLogprobs:
    """The `logprobs` of one choice of a completion, piece by piece. `text_offset` counts the characters of its text."""

    def __init__(self, *, by_id: bool = False) -> None:
        self._by_id = by_id
        self._offset = 0
        self._kept: defaultdict[str, Fragments] = defaultdict(Fragments)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def of(self, tokens: Sequence[ScoredToken]) -> dict[str, Any]:
        """Return the object for the next tokens."""
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            if not token.control:
                self._offset += len(self._decoder.decode(token.bytes))
        return {
            "tokens": [self._name(token) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [self._top(token) for token in tokens],
            "text_offset": offsets,
            "content": [token_entry(token, by_id=self._by_id) for token in tokens],  # llama-server's format, with ids
        }

    def keep(self, scores: dict[str, Any]) -> None:
        """Append the object of some tokens to `json`."""
        for name, values in scores.items():
            self._kept[name].add(values)

    @property
    def json(self) -> dict[str, Any]:
        """Return the object for all tokens that were kept."""
        return {name: values.json for name, values in self._kept.items()}

    def _name(self, token: ScoredToken) -> str:
        return token_text(token, "bytes:", by_id=self._by_id)

    def _top(self, token: ScoredToken) -> dict[str, float | None] | None:
        """Return the most likely tokens and the sampled one, by text."""
        if token.logprob is None:
            return None
        return {self._name(other): other.logprob for other in (token, *token.top)} if token.top else {}


def token_text(token: ScoredToken, prefix: str = "", *, by_id: bool = False) -> str:
    """Return the token's text, or its id; parts of characters are spelled byte by byte after a `prefix`."""
    if by_id:
        return f"token_id:{token.id}"
    try:
        return token.bytes.decode()
    except UnicodeDecodeError:
        return prefix + "".join(f"\\x{byte:02x}" for byte in token.bytes)
