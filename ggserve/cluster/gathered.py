"""The state of all replicas as one answer, in the shape of a single server's."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families


def health(told: Mapping[str, bytes]) -> bytes:
    """Merge health responses: numbers are summed, everything else is one replica's value."""
    states = {name: orjson.loads(body) for name, body in sorted(told.items())}
    whole: dict[str, Any] = {}
    for state in states.values():
        for key, value in state.items():
            whole[key] = whole.get(key, 0) + value if type(value) is int else value
    return orjson.dumps({**whole, "replicas": [{"replica": name, **state} for name, state in states.items()]})


def models(told: Mapping[str, bytes]) -> bytes:
    """Merge lists of models: one model, or two during an update."""
    found = {model["id"]: model for body in told.values() for model in orjson.loads(body)["data"]}
    return orjson.dumps({"object": "list", "data": list(found.values())})


def metrics(told: Mapping[str, bytes]) -> bytes:
    """Return every sample of every replica, with a label for the replica."""
    merged: dict[str, Metric] = {}
    for name, body in sorted(told.items()):
        for family in text_string_to_metric_families(body.decode()):
            samples = [sample._replace(labels={**sample.labels, "replica": name}) for sample in family.samples]
            family.samples = []
            merged.setdefault(family.name, family).samples += samples
    return generate_latest(SimpleNamespace(collect=merged.values))


GATHERED = {  # by path: the function that merges answers, and their type
    "/health": (health, "application/json"),
    "/v1/models": (models, "application/json"),
    "/metrics": (metrics, CONTENT_TYPE_LATEST),
}
