"""What is served here: `/v1/models`, `/health`, and the page at `/`."""

import html
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from api.dependencies import Model
from api.errors import APIError
from model import GGUFModel

router = APIRouter(tags=["server"])


@router.get("/v1/models")
async def models(model: Model) -> dict[str, Any]:
    """The loaded model, as a list of one."""
    return {"object": "list", "data": [_model_object(model)]}


@router.get("/v1/models/{name:path}")
async def model_by_name(name: str, model: Model) -> dict[str, Any]:
    """The loaded model, by its name."""
    if name != model.name:
        raise APIError(
            404, f"The model {name!r} is not served here, {model.name!r} is.", param="model", code="model_not_found"
        )
    return _model_object(model)


@router.get("/health")
async def health(model: Model) -> dict[str, Any]:
    """Whether requests are answered, and how busy the server is."""
    return {
        "status": "ok",
        "model": model.name,
        "engine": model.engine.name,
        "engine_reason": model.engine_reason,
        "slots": model.parallel,
        "slots_idle": model.engine.pool.idle,
        "waiting": model.engine.pool.waiting,
    }


@router.get("/", response_class=HTMLResponse, include_in_schema=False)
async def index(model: Model, request: Request) -> str:
    base = html.escape(str(request.base_url))
    name = html.escape(model.name)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>ggserve: {name}</title>
<style>body {{ font: 1rem/1.5 system-ui; max-width: 42rem; margin: 3rem auto; padding: 0 1rem }}
pre {{ background: #8882; padding: 1rem; overflow: auto }}</style>
<h1>ggserve</h1>
<p>This server answers the OpenAI API from <b>{name}</b>, on the {html.escape(model.engine.name)} engine,
with a context of {model.engine.context_length} tokens. Point any OpenAI client at <code>/v1</code>.</p>
<pre>curl {base}v1/chat/completions -d '{{
  "messages": [{{"role": "user", "content": "What is the capital of France?"}}]
}}'</pre>
<ul>
<li><a href="docs">API documentation</a>: every endpoint and field, to try in the browser</li>
<li><a href="v1/models">/v1/models</a>: what is loaded</li>
<li><a href="health">/health</a>: how busy the server is</li>
</ul>
</html>
"""


def _model_object(model: GGUFModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.path.stat().st_mtime),
        "owned_by": "local",
        "engine": model.engine.name,
        "engine_reason": model.engine_reason,
        "context_length": model.engine.context_length,
    }
