"""Helpers for the processes that tests start."""

import os
import re
import socket

from ggserve.settings import Settings

PATIENCE = 120  # seconds until what takes one or two on a free machine counts as hanging


def clean_environment() -> dict[str, str]:
    """Return the environment without this project's own settings."""
    own = re.compile("|".join(f"{name}$" for name in Settings.model_fields), re.IGNORECASE)
    return {name: value for name, value in os.environ.items() if not own.match(name)}


def free_port() -> int:
    """Return a port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
