"""What state the server is in: `/health` and `/metrics`."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from ggserve.api.errors import model_loading
from ggserve.api.state import state_of

router = APIRouter(tags=["server"])


@router.get("/health", openapi_extra={"security": [{}]})
async def health(request: Request) -> Response:
    """Whether requests are answered, and how busy the server is; a 503 with the progress while the model loads.

    Without a key where one is needed: the status alone.
    """
    models = state_of(request.scope).models
    model = models.loaded
    if model is None and models.idle:  # the next request loads one
        return JSONResponse({"status": "ok", "model": None, "waiting": 0} if request.state.known else {"status": "ok"})
    if model is None:
        progress = round(models.progress, 3)
        body = {"status": "loading", "progress": progress, **model_loading().body}
        return JSONResponse(body, 503, headers={"Retry-After": "1"})
    if not request.state.known:
        return JSONResponse({"status": "ok"})
    return JSONResponse(
        {
            "status": "ok",
            "model": model.name,
            "engine": model.engine_name,
            "engine_reason": model.engine_reason,
            "slots": model.parallel,
            "slots_idle": model.occupancy.idle,
            "waiting": model.occupancy.queued,
        }
    )


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(request: Request) -> Response:
    """Counters, histograms and gauges, as Prometheus scrapes them."""
    return Response(state_of(request.scope).metrics.text(), media_type="text/plain; version=0.0.4")
