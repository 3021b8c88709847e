"""What state the server is in: `/health`, and the page at `/`."""

import html

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from api.dependencies import Model
from api.errors import model_loading
from model import GGUFModel

router = APIRouter(tags=["server"])


@router.get("/health")
async def health(request: Request) -> Response:
    """Whether requests are answered, and how busy the server is; a 503 with the progress while the model loads."""
    model: GGUFModel | None = request.app.state.model
    if model is None:
        progress = round(request.app.state.load_progress, 3)
        body = {"status": "loading", "progress": progress, **model_loading().body}
        return JSONResponse(body, 503, headers={"Retry-After": "1"})
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
<p>This server answers the OpenAI API from <b>{name}</b>, on the {html.escape(model.engine_name)} engine,
with a context of {model.context_length} tokens. Point any OpenAI client at <code>/v1</code>.</p>
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
