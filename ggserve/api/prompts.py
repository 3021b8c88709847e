"""Response fields about prompts: the progress of their evaluation, and the reasons for cache misses."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ggserve.prompt_progress import CacheMiss, PromptProgress


def miss_object(miss: CacheMiss) -> dict[str, Any]:
    """Return the reason why tokens were evaluated again."""
    return asdict(miss)


def cache_miss(miss: CacheMiss | None) -> dict[str, Any]:
    """Return the field `cache_miss` if many tokens were evaluated again."""
    return {"cache_miss": miss_object(miss)} if miss else {}


def progress_object(prompts: Sequence[PromptProgress]) -> dict[str, int]:
    """Return llama-server's `prompt_progress` for all prompts of a request."""
    return {
        "total": sum(prompt.total for prompt in prompts),
        "cache": sum(prompt.cached for prompt in prompts),
        "processed": sum(prompt.processed for prompt in prompts),
        "time_ms": int(max((prompt.milliseconds for prompt in prompts), default=0)),
    }
