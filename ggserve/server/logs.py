"""Log files: `main.log` for requests, `model.log` for the model, both in short on the console."""

import logging
import sys
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Literal

LOGGERS = {"ggserve.main": "main.log", "ggserve.model": "model.log"}
MAX_BYTES = 10_000_000
_BACKUPS = 3
_FIELDS = "%(asctime)s %(levelname)s %(message)s"  # and what a line has besides, as `request`


class _LogFile(RotatingFileHandler):
    """Says once what keeps it from writing, until it can write again: a full disk must not flood the console."""

    _failing = False

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line."""
        self._failed = False
        super().emit(record)
        self._failing = self._failed

    def handleError(self, record: logging.LogRecord) -> None:
        """Called where a line could not be written."""
        self._failed = True
        if not self._failing:
            with suppress(OSError):
                print(f"ggserve: cannot write {self.baseFilename}: {sys.exc_info()[1]}", file=sys.stderr, flush=True)


def configure_logs(folder: Path, level: str, form: Literal["text", "json"] = "text") -> None:
    """Opens the log files; with `json` each line is an object. Raises OSError when the folder cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger("ggserve")
    root.setLevel(level.upper())
    root.propagate = False
    _replace_handlers(root, logging.StreamHandler(), logging.Formatter("%(message)s"))
    lines: logging.Formatter
    if form == "json":
        from pythonjsonlogger.json import JsonFormatter  # only whoever wants it pays for its import

        lines = JsonFormatter(_FIELDS, rename_fields={"asctime": "time", "levelname": "level"})
    else:
        lines = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    for name, file in LOGGERS.items():
        handler = _LogFile(folder / file, maxBytes=MAX_BYTES, backupCount=_BACKUPS, encoding="utf-8", delay=False)
        _replace_handlers(logging.getLogger(name), handler, lines)


def _replace_handlers(logger: logging.Logger, handler: logging.Handler, formatter: logging.Formatter) -> None:
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    handler.setFormatter(formatter)
    logger.addHandler(handler)
