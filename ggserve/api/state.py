"""The state that the routes and middleware of one app share. Two apps in one process share none of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from starlette.types import Scope

if TYPE_CHECKING:
    from ggserve.api.admission import Admission
    from ggserve.api.body_limits import BodyBudget
    from ggserve.api.dialect import Envelopes
    from ggserve.api.keys import Keys
    from ggserve.api.limits import Limits
    from ggserve.api.metrics import Metrics
    from ggserve.api.openai.responses.store import ResponseStore
    from ggserve.api.origins import Origins
    from ggserve.model.registry import ModelRegistry


@dataclass(kw_only=True)
class AppState:
    """The app's state, built from its settings when it starts; `state_of` returns it."""

    models: "ModelRegistry"
    envelopes: "Envelopes"
    keys: "Keys"
    admin_keys: "Keys"
    origins: "Origins"
    limits: "Limits"
    bodies: "BodyBudget"
    admission: "Admission"
    embedding_admission: "Admission"
    responses: "ResponseStore"
    metrics: "Metrics"


def state_of(scope: Scope) -> AppState:
    """Return the state of the app that received a request."""
    return cast(AppState, scope["app"].state.ggserve)
