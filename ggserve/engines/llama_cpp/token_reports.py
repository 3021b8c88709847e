"""llama.cpp's reports on the probabilities of tokens (`n_probs`), in the forms that builds give them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ggserve.engines.llama_cpp.transport import Abilities

Report = dict[str, Any]  # on a token, with reports on the likeliest tokens in its place


def beside(bias: Mapping[int, float], abilities: Abilities) -> dict[str, Any]:
    """Return fields of a request that reports the probabilities of some tokens when no others are possible."""
    fields: dict[str, Any] = {"logit_bias": [[token, value] for token, value in bias.items()], "n_probs": len(bias)}
    if abilities.logprobs_before_bias:
        return {**fields, "samplers": ["temperature"], "temperature": 1.0, "post_sampling_probs": True}
    return {**fields, "samplers": ["top_k"], "top_k": 1}


def likeliest_of(entry: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """Return llama.cpp's reports on the likeliest tokens in the place of one."""
    found: Sequence[dict[str, Any]] = entry.get("top_logprobs") or entry.get("top_probs") or ()
    return found


def probabilities(entry: dict[str, Any]) -> dict[int, float]:
    """Return the probabilities that the report on a token gives, by token."""
    reports = (entry, *likeliest_of(entry))
    return {one["id"]: one["prob"] if "prob" in one else math.exp(one["logprob"]) for one in reports}


def normalized(entry: Report) -> Report:
    """Correct a report of a build that counts the tokens that it does not report twice in the sum of all: the reported
    ones, of a true sum s, then sum up to s / (2 - s)."""
    reported = sum(math.exp(one["logprob"]) for one in likeliest_of(entry))
    more = math.log(2 / (1 + reported))
    likeliest = [{**one, "logprob": one["logprob"] + more} for one in likeliest_of(entry)]
    return {**entry, "logprob": entry["logprob"] + more, "top_logprobs": likeliest}
