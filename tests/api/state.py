"""The state of an app in tests that build one by hand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from ggserve.api.admission import Admission
from ggserve.api.body_limits import BodyBudget
from ggserve.api.dialect import Dialect, Envelope, Envelopes
from ggserve.api.errors import APIError, openai_envelope
from ggserve.api.keys import Keys
from ggserve.api.limits import Limits
from ggserve.api.metrics import Metrics
from ggserve.api.openai.responses.store import ResponseStore
from ggserve.api.origins import Origins
from ggserve.api.state import AppState
from ggserve.model.catalog import Listed
from ggserve.model.registry import ModelRegistry


def app_state(*, model: object = None, dialects: dict[str, Envelope] | None = None, **changes: Any) -> AppState:
    """Return a state with this loaded model, with `changes`. `dialects`: forms of errors by prefix."""
    models = ModelRegistry(cast(Callable[..., Any], None))
    models.started = True
    if model is not None:
        models.add(Listed("model", Path("model.gguf"), 0, 0), cast(Any, model))
    envelopes = {"/": openai_envelope, **(dialects or {})}
    state = AppState(
        models=models,
        envelopes=Envelopes([Dialect(cast(Any, None), prefix, envelope) for prefix, envelope in envelopes.items()]),
        keys=Keys(),
        admin_keys=Keys(),
        origins=Origins(),
        limits=limits(),
        bodies=BodyBudget(64 << 20),
        admission=Admission(),
        embedding_admission=Admission(),
        responses=ResponseStore(),
        metrics=Metrics(models),
    )
    return replace(state, **changes)


def limits(**changes: Any) -> Limits:
    """Return limits that no test reaches by accident, with `changes`."""
    return replace(
        Limits(body_bytes=32 << 20, body_seconds=60, first_token_seconds=60, request_seconds=60, prompts=9), **changes
    )


def oops(error: APIError) -> dict[str, Any]:
    """The envelope of a made-up dialect."""
    return {"oops": str(error), "status": error.status}
