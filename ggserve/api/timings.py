"""The times of a prompt and its answer, as llama-server reports them."""

import time
from typing import Any

from ggserve.api.answers import Answers


def timings(answers: Answers, started: float) -> dict[str, Any]:
    """Return llama-server's `timings` so far. `started`: time.perf_counter() when the request arrived; time in the
    queue counts as prompt time."""
    usage, now = answers.usage, time.perf_counter()
    first = min((answer.first_at for answer in answers.all if answer.first_at), default=now)
    prompt_tokens = usage.prompt_tokens - usage.cached_tokens
    guessed = usage.accepted_tokens + usage.rejected_tokens
    return {
        "cache_n": usage.cached_tokens,
        **_rates("prompt", prompt_tokens, first - started),
        **_rates("predicted", usage.completion_tokens, now - first),
        **({"draft_n": guessed, "draft_n_accepted": usage.accepted_tokens} if guessed else {}),
    }


def _rates(name: str, tokens: int, seconds: float) -> dict[str, float]:
    return {
        f"{name}_n": tokens,
        f"{name}_ms": seconds * 1000,
        f"{name}_per_token_ms": seconds * 1000 / tokens if tokens else 0.0,
        f"{name}_per_second": tokens / seconds if seconds else 0.0,
    }
