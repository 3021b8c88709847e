"""The state of the server: `/health`, `/livez` and `/metrics`."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from ggserve.api.errors import model_loading
from ggserve.api.hardware import hardware_fields
from ggserve.api.state import state_of

router = APIRouter(tags=["server"])


@router.get("/health", openapi_extra={"security": [{}]})
async def health(request: Request) -> Response:
    """Readiness: whether requests are answered, and the server's load. Returns a 503 with the progress while the model
    loads at startup; later loads do not change the status.

    If an API key is required, a request without one gets only the status.
    """
    models = state_of(request.scope).models
    model = models.current
    if not models.started:
        progress = round(models.progress, 3)
        body = {"status": "loading", "progress": progress, **model_loading().body}
        return JSONResponse(body, 503, headers={"Retry-After": "1"})
    if not request.state.known:
        return JSONResponse({"status": "ok"})
    if model is None:  # the next request loads the model
        return JSONResponse({"status": "ok", "model": None, "waiting": 0})
    return JSONResponse(
        {
            "status": "ok",
            "model": model.name,
            "engine": model.engine_name,
            "engine_reason": model.engine_reason,
            **hardware_fields(model),
            "slots": model.parallel,
            "slots_idle": model.occupancy.idle,
            "waiting": model.occupancy.queued,
        }
    )


@router.get("/livez", openapi_extra={"security": [{}]})
async def livez() -> dict[str, str]:
    """Liveness: answers as long as the process does, even while a model loads."""
    return {"status": "ok"}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(request: Request) -> Response:
    """Counters, histograms and gauges in Prometheus' format."""
    return Response(state_of(request.scope).metrics.text(), media_type="text/plain; version=0.0.4")
