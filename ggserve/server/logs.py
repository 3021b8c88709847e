"""Log files: `main.log` for requests, `model.log` for the model, and both in short form on the console."""

import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Literal

from ggserve.errors import one_line

LOGGERS = {"ggserve.main": "main.log", "ggserve.model": "model.log"}
MAX_BYTES = 10_000_000
_BACKUPS = 3
_FIELDS = "%(asctime)s %(levelname)s %(message)s"  # and the other attributes of a record, such as `request`


class _LogFile(RotatingFileHandler):
    """A handler that reports a failure to write once, until it can write again: a full disk must not flood the
    console."""

    _failing = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        self._failed = False
        super().emit(record)
        self._failing = self._failed

    def handleError(self, record: logging.LogRecord) -> None:
        """Report a line that could not be written."""
        self._failed = True
        if not self._failing:
            with suppress(OSError):
                print(f"ggserve: cannot write {self.baseFilename}: {sys.exc_info()[1]}", file=sys.stderr, flush=True)


def configure_logs(folder: Path | None, level: str, form: Literal["text", "json"] = "text") -> Path | None:
    """Open the console and the log files; with `json`, each line of a file is an object. Returns the folder of the
    files, or None without files: if they are not wanted, or if they cannot be written, which the console reports."""
    root = logging.getLogger("ggserve")
    root.setLevel(level.upper())
    root.propagate = False
    _replace_handlers(root, [logging.StreamHandler()], _Lines("%(message)s"))
    handlers: dict[str, logging.Handler] = {}
    if folder:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handlers = {name: _open(folder / file) for name, file in LOGGERS.items()}
        except OSError as error:
            root.warning("LOG_DIR=%s: no log files, only the console: %s", folder, error.strerror)
            folder = None
    lines = _json_lines() if form == "json" else _Lines(_FIELDS)
    for name in LOGGERS:
        _replace_handlers(logging.getLogger(name), [handlers[name]] if folder else [], lines)
    return folder


class _Lines(logging.Formatter):
    """Lines of text. Text from outside (file names, errors of libraries) cannot forge a line."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Format the line without line breaks and control characters in the message."""
        record.message = one_line(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        """Format a traceback, indented."""
        return "\n".join(f"    {one_line(line)}" for line in super().formatException(ei).splitlines())


def _json_lines() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter  # imported here so that only its users pay for it

    class Lines(JsonFormatter):
        def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
            return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")

    return Lines(_FIELDS, rename_fields={"asctime": "time", "levelname": "level"})


def _open(path: Path) -> logging.Handler:
    return _LogFile(path, maxBytes=MAX_BYTES, backupCount=_BACKUPS, encoding="utf-8", errors="backslashreplace")


def _replace_handlers(
    logger: logging.Logger, handlers: Sequence[logging.Handler], formatter: logging.Formatter
) -> None:
    for old in list(logger.handlers):
        logger.removeHandler(old)
        with suppress(OSError):  # of a full disk
            old.close()
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
