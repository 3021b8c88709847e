"""`ggserve serve`: settings, sockets and uvicorn around the app, in a worker that a supervisor restarts."""

from pathlib import Path
from typing import NoReturn


def serve(arguments: list[str], model_path: str | Path = "") -> None:
    """Run the server with settings from the command line, the environment and `.env`. `model_path` is served if they
    name no model.

    With a supervisor, this function does not return: the process ends with the server.
    """
    from ggserve.server.supervisor import supervise

    worker = supervise()  # before all other imports, so that the supervisor stays small

    from ggserve.settings import SettingsError, load_settings

    try:  # before the slow imports, so that a mistake is told at once
        settings = load_settings(command_line=arguments)
    except SettingsError as error:
        _fail(str(error))

    import os
    import socket
    from contextlib import suppress
    from functools import partial

    import uvicorn

    from ggserve.app import create_app
    from ggserve.server.connections import IDLE_SECONDS, Connection, ConnectionLimits, affordable_connections
    from ggserve.server.sockets import check_certificate, listen

    connection_limits = ConnectionLimits(
        connections=affordable_connections(settings.max_connections),
        header_bytes=settings.max_header_kb << 10,
        header_seconds=settings.header_timeout,
        send_seconds=settings.send_timeout,
    )
    config = uvicorn.Config(
        create_app(settings, model_path=model_path, worker=worker),
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
        _fail(f"SSL_CERTFILE={settings.ssl_certfile}, SSL_KEYFILE={settings.ssl_keyfile}: {error}")
    try:
        sockets = worker.sockets if worker and worker.sockets else listen(settings.host, settings.port)
    except OSError as error:
        # asyncio and socket add their own text to strerror.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        hint = " (conda sets HOST to a platform name: use --host)" if isinstance(error, socket.gaierror) else ""
        _fail(f"HOST={settings.host}, PORT={settings.port}: cannot listen on this address: {reason}{hint}")
    if worker:
        worker.listens(sockets)
    settings.port = sockets[0].getsockname()[1]
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets)


def _fail(message: str) -> NoReturn:
    import os
    import sys

    from ggserve.errors import one_line

    print(f"ggserve: {one_line(message)}", file=sys.stderr, flush=True)
    os._exit(2)
