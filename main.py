"""The app: settings, the model's lifespan, routes. `python main.py` or `uvicorn main:app` starts it."""

if __name__ == "__main__":
    from supervisor import supervise

    worker = supervise()  # before all other imports, so that the supervisor is spared them

import gc
import os

gc.disable()  # while modules load: collecting then finds nothing, and takes a tenth of a second
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy multiplies no matrices here: its threads would only start
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # it would look for them in every installed package

import asyncio
import logging
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import uvicorn
from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from starlette.datastructures import State

from api import page, status
from api.access import AccessMiddleware
from api.admission import Admission
from api.anthropic import messages
from api.anthropic.errors import anthropic_envelope
from api.errors import ERROR_RESPONSES, install_error_handlers
from api.keys import Keys, KeysMiddleware, read_keys
from api.limits import Limits
from api.llama_server import infill, rerank, state, tokens
from api.metrics import Metrics
from api.ollama import embeddings as ollama_embeddings
from api.ollama import generation as ollama_generation
from api.ollama import models as ollama_models
from api.ollama.errors import ollama_envelope
from api.openai import chat, completions, embeddings, models
from api.openai.responses import endpoint as responses
from api.openai.responses.store import ResponseStore
from api.origins import Origins, OriginsMiddleware, is_loopback
from connections import IDLE_SECONDS, Connection, ConnectionLimits, affordable_connections
from engine.errors import EngineError
from engine.native_process import give_back_memory, send_c_stderr
from load import LoadOptions
from logs import LOGGERS, configure_logs
from model import GGUFModel
from modelfile.errors import ModelFileError
from modelfile.source.default import default_model, packaged_model
from modelfile.source.find import find_model_file
from models import Models
from prompt.errors import TemplateError
from settings import VERSION, Settings, SettingsError, load_settings
from shutdown import graceful_stop, running_server
from supervisor import Worker

gc.freeze()  # what was imported stays: no later collection needs to look at it
gc.enable()

# The model file to serve, for those who prefer editing this line to setting MODEL_PATH (which goes before it).
model_path = ""

ROUTERS = tuple(
    module.router
    for module in (
        completions,
        chat,
        responses,
        embeddings,
        models,
        messages,
        ollama_generation,
        ollama_embeddings,
        ollama_models,
        rerank,
        infill,
        state,
        tokens,
        status,
        page,
    )
)
ENVELOPES = {
    "/v1/messages": anthropic_envelope,
    "/api/": ollama_envelope,
}  # by how paths begin, errors of dialects that are not OpenAI's

log = logging.getLogger("ggserve.main")


def find_model(settings: Settings) -> Path | None:
    """The configured model's file, or the default one's; None where MODELS_DIR holds all there is. Raises
    ModelFileError or SettingsError."""
    if settings.model_path or (model_path and not settings.model_name):
        return find_model_file(settings.model_path or Path(model_path))
    if name := settings.model_name or settings.model_file:
        return find_model_file(name, settings.model_file if settings.model_name else None)
    if settings.models_dir:
        return None
    on_llama_cpp = LoadOptions(**load_options(settings)).default_on_llama_cpp
    if (default := packaged_model() if on_llama_cpp else default_model(settings.cache_dir)) is not None:
        return default
    raise SettingsError("no model: set MODEL_PATH to a model file, or install the default one with `make serve`")


def load_options(settings: Settings) -> dict[str, Any]:
    """What the settings say about a load: the fields of LoadOptions."""
    return {field.name: getattr(settings, field.name) for field in fields(LoadOptions)}


def load_model(path: Path, settings: Settings, report: Callable[[float], None]) -> GGUFModel:
    """Checks and loads a file; `report` gets what part of it is read. Raises ModelFileError or EngineError."""
    return GGUFModel(
        path,
        log_prompts=settings.log_prompts,
        max_tokens=settings.max_tokens,
        report=report,
        **load_options(settings),
    )


def open_doors(state: State, settings: Settings) -> None:
    """Says who may use the server and how much, and warns where anybody may. Raises OSError, or ValueError, where keys
    cannot be read."""
    state.keys = keys = read_keys(settings.api_key, settings.api_key_file)
    state.origins = Origins(hosts=settings.allowed_hosts, origins=settings.cors_origins, keyed=bool(keys))
    state.limits = Limits(
        body_bytes=settings.max_body_mb << 20,
        body_seconds=settings.body_timeout,
        first_token_seconds=settings.first_token_timeout,
        request_seconds=settings.request_timeout,
        prompts=settings.max_prompts,
    )
    host = server.config.host if (server := running_server()) else "127.0.0.1"
    if not keys and not is_loopback(host):
        log.warning("anyone who can reach %s may use the model: set API_KEY, or HOST=127.0.0.1", host or "this machine")
    if not keys and "*" in settings.cors_origins:
        log.warning("any page that somebody visits here may use the model: set API_KEY, or name sites in CORS_ORIGINS")


def fail(error: Exception | str, code: int = 2) -> NoReturn:
    """Ends the process with one line: the way out of uvicorn's lifespan without a traceback."""
    print(f"ggserve: {error}", file=sys.stderr, flush=True)
    os._exit(code)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Listens at once, loads the model in a thread, serves, closes it."""
    try:
        settings = getattr(app.state, "settings", None) or load_settings()
        configure_logs(settings.log_dir, settings.log_level, settings.log_format)
        open_doors(app.state, settings)
    except (SettingsError, OSError, ValueError) as error:
        app.state.fail(error)
    state, loop = app.state, asyncio.get_running_loop()
    state.model, state.load_progress, state.admission = None, 0.0, Admission()

    def changed(model: GGUFModel | None) -> None:
        state.model = model

    state.models = Models(
        lambda path: load_model(path, settings, report),
        changed,
        folder=settings.models_dir,
        keep_alive=settings.keep_alive,
        queue_size=settings.queue_size,
    )

    def report(progress: float) -> None:
        state.load_progress = progress

    def load() -> None:
        try:
            if (path := find_model(settings)) is None:
                return
            model = load_model(path, settings, report)
        except (SettingsError, ModelFileError, EngineError, TemplateError, OSError) as error:
            state.fail(error)
        except Exception as error:
            log.exception("loading failed")
            state.fail(f"{type(error).__name__}: {error}")
        loop.call_soon_threadsafe(ready, model)

    def ready(model: GGUFModel) -> None:
        send_c_stderr(settings.log_dir / LOGGERS["ggserve.model"])
        give_back_memory()
        gc.freeze()  # the model's tables live as long as the process
        state.models.start(model)
        if state.worker:
            state.worker.ready()
        scheme = "https" if settings.ssl_certfile else "http"
        address = f", {scheme}://{settings.host}:{settings.port}" if hasattr(state, "settings") else ""
        log.info("ready: %s on %s%s", model.name, model.engine_name, address)

    def close() -> None:
        if state.model is None and not state.models.on_demand:
            state.fail("interrupted while loading", code=130)
        state.models.close()

    def orphaned() -> None:
        loop.remove_reader(state.worker.fileno())
        os.kill(os.getpid(), signal.SIGTERM)  # the supervisor is gone, and with it who could stop this process

    if state.worker:
        if state.worker.death:
            log.warning("started again; the worker before was ended by %s", state.worker.death)
        loop.add_reader(state.worker.fileno(), orphaned)
    threading.Thread(target=load, name="load", daemon=True).start()
    with graceful_stop(close):
        yield
    close()
    log.info("stopped")


app = FastAPI(
    title="ggserve",
    version=VERSION,
    description="One model file, the OpenAI API.",
    lifespan=lifespan,
    redirect_slashes=False,  # they would lead to whatever host the client names
    responses=ERROR_RESPONSES,
    dependencies=[Depends(HTTPBearer(auto_error=False))],  # tells OpenAPI; api/keys.py decides
)
app.state.worker = None  # where no supervisor has started it
app.state.responses = ResponseStore()
app.state.metrics = Metrics(lambda: getattr(app.state, "model", None))
app.state.keys, app.state.origins, app.state.limits = Keys(), Origins(), Limits()  # until there are settings
app.state.fail = fail  # called when a start turns out to be impossible; does not return
for router in ROUTERS:
    app.include_router(router)
install_error_handlers(app, ENVELOPES)
app.add_middleware(KeysMiddleware)
app.add_middleware(OriginsMiddleware)
app.add_middleware(AccessMiddleware, metrics=app.state.metrics)  # the outermost, so that it sees all requests


def check_certificate(certificate: Path | None, key: Path | None) -> None:
    """Raises OSError or ValueError where HTTPS is wanted and its files are no use."""
    if certificate is not None:
        import ssl  # takes a while, and few need it

        def no_password() -> str:
            raise ValueError("the key must not need a password")

        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, no_password)
    elif key is not None:
        raise ValueError("a key needs its certificate")


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets on all addresses of `host`. Raises OSError."""
    addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    if port == 0:
        addresses = addresses[:1]
    return [socket.create_server(address[:2], family=family, backlog=2048) for family, *_, address in addresses]


def main(worker: Worker | None = None) -> None:
    """Serves with the settings of the command line, the environment and `.env`."""
    if "--version" in sys.argv[1:]:
        print(f"ggserve {VERSION}")
        return
    try:
        settings = load_settings(command_line=True)
    except SettingsError as error:
        fail(error)
    app.state.settings, app.state.worker = settings, worker
    connection_limits = ConnectionLimits(
        connections=affordable_connections(settings.max_connections),
        header_bytes=settings.max_header_kb << 10,
        header_seconds=settings.header_timeout,
        send_seconds=settings.send_timeout,
    )
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=partial(Connection, limits=connection_limits),  # type: ignore[arg-type]
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=IDLE_SECONDS,
        server_header=False,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
    )
    try:
        check_certificate(settings.ssl_certfile, settings.ssl_keyfile)
    except (OSError, ValueError) as error:
        fail(f"SSL_CERTFILE={settings.ssl_certfile}, SSL_KEYFILE={settings.ssl_keyfile}: {error}")
    try:
        sockets = worker.sockets if worker and worker.sockets else listen(settings.host, settings.port)
    except OSError as error:
        # asyncio and socket add words to a system error's own.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        fail(f"cannot listen on {settings.host or '*'}, port {settings.port}: {reason}")
    if worker:
        worker.listens(sockets)
    settings.port = sockets[0].getsockname()[1]
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets)


if __name__ == "__main__":
    main(worker)
