"""Log files: `main.log` for requests, `model.log` for the model, both in short on the console."""

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

LOGGERS = {"ggserve.main": "main.log", "ggserve.model": "model.log"}
MAX_BYTES = 10_000_000
_BACKUPS = 3


def configure_logs(folder: Path, level: str) -> None:
    """Opens the log files. Raises OSError when the folder cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger("ggserve")
    root.setLevel(level.upper())
    root.propagate = False
    _replace_handlers(root, logging.StreamHandler(), "%(message)s")
    for name, file in LOGGERS.items():
        handler = RotatingFileHandler(
            folder / file, maxBytes=MAX_BYTES, backupCount=_BACKUPS, encoding="utf-8", delay=False
        )
        _replace_handlers(logging.getLogger(name), handler, "%(asctime)s %(levelname)s %(message)s")


def _replace_handlers(logger: logging.Logger, handler: logging.Handler, form: str) -> None:
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    handler.setFormatter(logging.Formatter(form))
    logger.addHandler(handler)
