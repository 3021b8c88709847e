"""SamplingParams as llama.cpp's request fields."""

import math
from collections.abc import Collection
from typing import Any

from ggserve.generation import SamplingParams

_CHANGE_THE_LIKELIEST = ("penalties", "dry", "typ_p", "xtc")  # samplers that affect a greedy choice
_NEVER = False  # a bias that excludes a token


def sampling_fields(params: SamplingParams, context_length: int, vocab_size: int) -> dict[str, Any]:
    """Return the fields that control sampling, except the seed."""
    fields: dict[str, Any] = {
        "ignore_eos": params.ignore_eos,
        "cache_prompt": params.cache_prompt,
        "temperature": params.temperature,
        "dynatemp_range": params.dynatemp_range,
        "dynatemp_exponent": params.dynatemp_exponent,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "typical_p": params.typical_p,
        "top_n_sigma": params.top_n_sigma,
        "xtc_probability": params.xtc_probability,
        "xtc_threshold": params.xtc_threshold,
        "min_keep": params.min_keep,
        **_samplers(params),
    }
    if "penalties" in fields["samplers"]:
        fields |= {
            "repeat_last_n": context_length if params.repeat_last_n in (None, -1) else params.repeat_last_n,
            "repeat_penalty": params.repetition_penalty,
            "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty,
        }
    if "dry" in fields["samplers"]:
        fields |= {
            "dry_multiplier": params.dry_multiplier,
            "dry_base": params.dry_base,
            "dry_allowed_length": params.dry_allowed_length,
            "dry_penalty_last_n": context_length if params.dry_penalty_last_n < 0 else params.dry_penalty_last_n,
            "dry_sequence_breakers": params.dry_sequence_breakers
            or ["\0"],  # it skips that one, and accepts no empty list
        }
    if bias := _bias(params, vocab_size):
        fields["logit_bias"] = bias
    if params.logprobs is not None or params.watches_tokens:
        fields["n_probs"] = max(params.logprobs or 0, 1)
        fields["post_sampling_probs"] = params.sampled_probabilities
    return fields


def ruled_out(tokens: Collection[int]) -> list[list[Any]]:
    """Return a `logit_bias` that excludes these tokens."""
    return [[token, _NEVER] for token in tokens]


def _samplers(params: SamplingParams) -> dict[str, Any]:
    chain = params.active_samplers
    if "temperature" in chain and params.temperature == 0 and not params.dynatemp_range:
        before = [name for name in chain[: chain.index("temperature")] if name in _CHANGE_THE_LIKELIEST]
        # At a temperature of 0, some builds apply no sampler and report no probabilities.
        skips = not params.sampled_probabilities and set(before) <= {"penalties"}
        return {"samplers": [*before, "top_k"], "top_k": 1, "temperature": 0.0 if skips else 1.0}
    if params.mirostat:
        mirostat = {"mirostat_tau": params.mirostat_tau, "mirostat_eta": params.mirostat_eta}
        return {"samplers": ["temperature"], "mirostat": params.mirostat, **mirostat}
    return {"samplers": chain, "top_k": params.top_k}


def _bias(params: SamplingParams, vocab_size: int) -> list[list[Any]]:
    allowed = params.allowed_token_ids
    bias = [
        [token, value if math.isfinite(value) else _NEVER]
        for token, value in params.logit_bias.items()
        if allowed is None or token in allowed
    ]
    return bias if allowed is None else bias + ruled_out(set(range(vocab_size)) - allowed)
