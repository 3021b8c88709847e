"""The app: `create_app` builds it from its settings, and its lifespan loads the model. It opens no sockets."""

import gc
import os

gc.disable()  # while modules are imported: a collection finds nothing then and takes 0.1 seconds
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy multiplies no matrices here, so more threads would idle
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # searching for plugins reads every installed package

import asyncio
import logging
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer

from ggserve import __version__
from ggserve.api import anthropic, docs, llama_server, ollama, openai, page, status
from ggserve.api.admission import Admission
from ggserve.api.body_limits import BodyBudget, BodyLimitsMiddleware
from ggserve.api.dialect import Envelopes
from ggserve.api.errors import ERROR_RESPONSES, install_error_handlers
from ggserve.api.head import HeadMiddleware
from ggserve.api.keys import Keys, KeysMiddleware, read_keys
from ggserve.api.limits import Limits
from ggserve.api.metrics import Metrics
from ggserve.api.openai.responses.store import ResponseStore
from ggserve.api.origins import Origins, OriginsMiddleware, is_loopback
from ggserve.api.record import RecordMiddleware
from ggserve.api.state import AppState
from ggserve.engines.choice import engine_for_default_model
from ggserve.engines.native_process import send_c_stderr
from ggserve.errors import EngineError, ModelFileError, TemplateError, one_line
from ggserve.generation import SAMPLING_DEFAULTS
from ggserve.hub.default import default_model, packaged_model
from ggserve.hub.find import find_model_file
from ggserve.machine import give_back_memory, memory_for_models, return_large_blocks
from ggserve.model.catalog import Catalog, Listed
from ggserve.model.gguf_model import GGUFModel
from ggserve.model.plan import LoadOptions, Report, plan_load
from ggserve.model.registry import ModelRegistry
from ggserve.server.logs import LOGGERS, configure_logs
from ggserve.server.signals import graceful_stop, running_server
from ggserve.server.sockets import url_host
from ggserve.server.supervisor import Worker
from ggserve.settings import Settings, SettingsError, load_settings

gc.freeze()  # imported modules live as long as the process, so later collections can skip them
gc.enable()

_SHARES = 4  # models of MODELS_DIR that have room at the same time by default

DIALECTS = (openai.DIALECT, anthropic.DIALECT, ollama.DIALECT, llama_server.DIALECT)

log = logging.getLogger("ggserve.main")


def create_app(
    settings: Settings | None = None,
    *,
    model_path: str | Path = "",
    worker: Worker | None = None,
    fail: Callable[[Exception | str, int], NoReturn] | None = None,
) -> FastAPI:
    """Return an app with these settings. Without `settings`, the app reads them when it starts.

    `model_path` is served if the settings name no model. `worker` is this process's link to its supervisor, if it has
    one. `fail` receives the error and the exit code if the app cannot start. By default, it ends the process.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with _running(app, settings, Path(model_path) if model_path else None, worker, fail or _end_process):
            yield

    app = FastAPI(
        title="ggserve",
        version=__version__,
        description="Local language models over the OpenAI, Anthropic, Ollama and llama-server APIs.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page would run scripts from a public CDN in the chat page's origin; see api/docs.py
        redoc_url=None,
        redirect_slashes=False,  # a redirect would point to whatever host the client names
        responses=ERROR_RESPONSES,
        dependencies=[Depends(HTTPBearer(auto_error=False))],  # for OpenAPI only; api/keys.py checks keys
    )
    for router in (*(dialect.router for dialect in DIALECTS), status.router, page.router, docs.router):
        app.include_router(router)
    install_error_handlers(app)
    app.add_middleware(KeysMiddleware)
    app.add_middleware(OriginsMiddleware)
    app.add_middleware(BodyLimitsMiddleware)
    app.add_middleware(HeadMiddleware)
    app.add_middleware(RecordMiddleware)  # the outermost, so that it sees every request
    return app


@asynccontextmanager
async def _running(
    app: FastAPI,
    given: Settings | None,
    model_path: Path | None,
    worker: Worker | None,
    fail: Callable[[Exception | str, int], NoReturn],
) -> AsyncGenerator[None, None]:
    """Load the model in a thread while the server already listens, then serve until shutdown and close the model."""
    return_large_blocks()
    try:
        settings = given or load_settings()
        folder = configure_logs(settings.log_dir, settings.log_level, settings.log_format)
        settings = settings.model_copy(update={"log_dir": folder})
        app.state.ggserve = state = state_for(settings)
    except (SettingsError, ModelFileError, OSError, ValueError) as error:
        fail(error, 2)
    models, loop = state.models, asyncio.get_running_loop()

    def load() -> None:
        try:
            path = _configured_model(settings, model_path)
            model = models.load(path) if path else None
        except (SettingsError, ModelFileError, EngineError, TemplateError, OSError) as error:
            fail(error, 2)
        except Exception as error:
            log.exception("loading failed")
            fail(f"{type(error).__name__}: {error}", 2)
        loop.call_soon_threadsafe(ready, model)

    def ready(model: GGUFModel | None) -> None:
        if model and not settings.models_dir:
            model.when_failed(lambda reason: fail(reason, 1))
        give_back_memory()
        gc.freeze()  # the model's tables live as long as the process, so collections can skip them
        models.start(model)
        if worker:
            worker.ready()
        scheme = "https" if settings.ssl_certfile else "http"
        address = f", {scheme}://{url_host(settings.host)}:{settings.port}" if given else ""
        what = f"{model.name} on {model.engine_name}" if model else f"the models in {settings.models_dir}"
        log.info("ready: %s%s", what, address)

    def close() -> None:
        if not models.started:
            fail("interrupted while loading", 130)
        models.close()

    def orphaned() -> None:
        assert worker is not None
        loop.remove_reader(worker.fileno())
        os.kill(os.getpid(), signal.SIGTERM)  # without its supervisor, nothing else would stop this process

    if worker:
        if worker.death:
            log.warning("restarted: the previous worker was killed by %s", worker.death)
        loop.add_reader(worker.fileno(), orphaned)
    threading.Thread(target=load, name="load", daemon=True).start()
    with graceful_stop(close):
        yield
    close()
    log.info("stopped")
    if models.changing:  # native code cannot be interrupted and must not run while the interpreter shuts down
        fail("interrupted while loading", 130)


def state_for(settings: Settings) -> AppState:
    """Return the state of an app with these settings, and warn if anyone can use the server. Raises SettingsError, and
    OSError or ValueError if the API keys cannot be read."""
    keys = read_keys(settings.api_key, settings.api_key_file)
    admin_keys = Keys(key.strip() for key in (settings.admin_api_key or "").split(",") if key.strip())
    host = server.config.host if (server := running_server()) else "127.0.0.1"
    if not keys and not is_loopback(host):
        log.warning("anyone who can reach %s can use the model: set API_KEY or HOST=127.0.0.1", host or "this machine")
    if not keys and "*" in settings.cors_origins:
        log.warning("any web page opened on this machine can use the model: set API_KEY, or list sites in CORS_ORIGINS")

    if settings.models_dir and not settings.models_dir.is_dir():
        raise SettingsError(f"MODELS_DIR={settings.models_dir}: no such folder")
    options = {field.name: getattr(settings, field.name) for field in fields(LoadOptions)}

    server_wide = {name: getattr(settings, name) for name in SAMPLING_DEFAULTS}
    sampling = {name: value for name, value in server_wide.items() if value is not None}

    catalog = Catalog(settings.models_dir)
    memory = settings.models_memory << 20 if settings.models_memory else memory_for_models()

    def share() -> int:
        """Bytes that the default context of one model leaves it within, so that it does not unload the others."""
        together = min(len(catalog.models()), settings.models_max or _SHARES) if settings.models_dir else 1
        return memory // max(1, together)

    def load(listed: Listed, report: Report) -> GGUFModel:
        prompts, most = settings.log_prompts, settings.max_tokens
        model = GGUFModel(
            listed.path,
            name=listed.name,
            log_prompts=prompts,
            max_tokens=most,
            report=report,
            sampling=listed.settings.sampling,
            fallback_sampling=sampling,
            memory=share(),
            **{**options, **listed.settings.options},
        )
        if settings.log_dir:
            send_c_stderr(settings.log_dir / LOGGERS["ggserve.model"])
        return model

    def need(listed: Listed) -> int:
        chosen = LoadOptions(**{**options, **listed.settings.options})
        return plan_load(listed.path, chosen, memory=share()).nbytes

    models = ModelRegistry(
        load,
        need=need,
        catalog=catalog,
        memory=memory,
        most=settings.models_max,
        keep_alive=settings.keep_alive,
        queue_size=settings.queue_size + settings.embedding_queue_size,
    )
    return AppState(
        models=models,
        envelopes=Envelopes(DIALECTS),
        keys=keys,
        admin_keys=admin_keys,
        origins=Origins(hosts=settings.allowed_hosts, origins=settings.cors_origins, keyed=bool(keys)),
        limits=Limits(
            body_bytes=settings.max_body_mb << 20,
            body_seconds=settings.body_timeout,
            first_token_seconds=settings.first_token_timeout,
            request_seconds=settings.request_timeout,
            prompts=settings.max_prompts,
        ),
        bodies=BodyBudget(settings.max_bodies_mb << 20),
        admission=Admission(),
        embedding_admission=Admission(),
        responses=ResponseStore(),
        metrics=Metrics(models),
    )


def _configured_model(settings: Settings, model_path: Path | None) -> Path | None:
    """Return the path of the configured or default model, or None if only MODELS_DIR is set. Raises ModelFileError or
    SettingsError."""
    if path := settings.model_path or (None if settings.model_name else model_path):
        return find_model_file(path)
    if name := settings.model_name or settings.model_file:
        return find_model_file(name, settings.model_file if settings.model_name else None)
    if settings.models_dir:
        return None
    options = LoadOptions(**{field.name: getattr(settings, field.name) for field in fields(LoadOptions)})
    default = (
        packaged_model() if engine_for_default_model(options) == "llama.cpp" else default_model(settings.cache_dir)
    )
    if default is not None:
        return default
    raise SettingsError("no model: set MODEL_PATH to a model file, or install the default model with `make serve`")


def _end_process(error: Exception | str, code: int) -> NoReturn:
    """Print one line and end the process. uvicorn would print a traceback for an error raised in the lifespan."""
    print(f"ggserve: {one_line(str(error))}", file=sys.stderr, flush=True)
    os._exit(code)
