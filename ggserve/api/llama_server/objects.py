"""Parts of llama-server's response objects: finish reason, settings, token probabilities."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ggserve.api.answer import Answer
from ggserve.api.openai.objects import token_entry, token_text
from ggserve.api.prompts import cache_miss
from ggserve.generation import SamplingParams, ScoredToken
from ggserve.model.gguf_model import GGUFModel

_OTHER_NAMES = {"repetition_penalty": "repeat_penalty"}
_SETTINGS = (
    "seed",
    "temperature",
    "dynatemp_range",
    "dynatemp_exponent",
    "top_k",
    "top_p",
    "min_p",
    "top_n_sigma",
    "xtc_probability",
    "xtc_threshold",
    "typical_p",
    "repeat_last_n",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "stop",
    "ignore_eos",
    "min_keep",
    "samplers",
)


def settings_object(params: SamplingParams, model: GGUFModel) -> dict[str, Any]:
    """Return llama-server's `generation_settings`."""
    values = asdict(params)
    limit = -1 if params.max_tokens is None else params.max_tokens
    return {
        "n_ctx": model.context_length,
        "n_predict": limit,
        "max_tokens": limit,
        **{_OTHER_NAMES.get(name, name): values[name] for name in _SETTINGS},
        "seed": 0xFFFFFFFF if params.seed is None else params.seed,
        "repeat_last_n": -1 if params.repeat_last_n is None else params.repeat_last_n,
        "logit_bias": [{"token": token, "bias": _finite(bias)} for token, bias in params.logit_bias.items()],
        "n_probs": params.logprobs or 0,
        "grammar": params.grammar.text if params.grammar else "",
    }


def final_object(answer: Answer, text: str, model: GGUFModel, timings: dict[str, Any]) -> dict[str, Any]:
    """Return the last event of an answer, or the whole answer."""
    delta = answer.last
    ended = delta.stop_sequence is not None or delta.stop_token is not None
    return {
        "index": answer.index,
        "content": text,
        "id_slot": -1,
        "stop": True,
        "model": model.name,
        "tokens_predicted": delta.completion_tokens,
        "tokens_evaluated": delta.prompt_tokens,
        "tokens_cached": delta.cached_tokens,
        **cache_miss(delta.cache_miss),
        "has_new_line": "\n" in answer.text,
        "truncated": False,
        "stop_type": "word" if ended else "limit" if delta.finish_reason == "length" else "eos",
        "stopping_word": delta.stop_sequence or "",
        "timings": timings,
    }


def probabilities(tokens: Sequence[ScoredToken], *, sampled: bool) -> list[dict[str, Any]]:
    """Return llama-server's `completion_probabilities`; with `sampled`, after all samplers."""
    if not sampled:
        return [token_entry(token) for token in tokens]
    return [{**_probability(token), "top_probs": [_probability(other) for other in token.top]} for token in tokens]


def _probability(token: ScoredToken) -> dict[str, Any]:
    probability = math.exp(token.logprob) if token.logprob is not None else 1.0
    return {"id": token.id, "token": token_text(token), "bytes": list(token.bytes), "prob": probability}


def _finite(bias: float) -> float | bool:
    return bias if math.isfinite(bias) else False
