"""A llama-server build on this machine: its path and its features. The version says nothing about them."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ggserve.engines.llama_cpp import child_process
from ggserve.engines.llama_cpp.in_process import gpus
from ggserve.engines.threads import bound_spinning
from ggserve.errors import EngineError, one_line

_SECONDS = 60.0  # for an answer to --help: a GPU's driver may take a while to load
_LONGEST = 1 << 20  # bytes of an answer
_FLAG = re.compile(r"(?<![\w-])--?[A-Za-z][\w.-]*")
_ENTRY = r" {0,12}-"  # the beginning of a flag's help; descriptions are indented further
_DEVICE = re.compile(r"^\s+(\S+: .+)$", re.MULTILINE)
_NEEDED = ("--model", "--host", "--port", "--ctx-size", "--parallel", "--threads")


@dataclass(frozen=True)
class Build:
    """A llama-server executable."""

    path: Path
    version: str  # its version in one line
    help: str
    aliases: Mapping[str, frozenset[str]]  # by flag, all spellings of it
    devices: tuple[str, ...]  # GPUs, one line each, such as "CUDA0: NVIDIA ... (24217 MiB, 23908 MiB free)"

    def has(self, flag: str) -> bool:
        """Return whether the build has a command-line flag."""
        return flag in self.aliases

    def flag_help(self, flag: str) -> str:
        """Return the help of one flag; empty if there is none."""
        entries = re.split(rf"\n(?={_ENTRY})", self.help)
        return next((entry for entry in entries if flag in _spellings(entry)), "")


def chosen_build(llama_server: str) -> Build | None:
    """Return the build that the setting LLAMA_SERVER names; None for xllamacpp. Raises EngineError."""
    if llama_server == "off":
        return None
    if llama_server != "auto":
        return read_build(llama_server)
    found = shutil.which("llama-server")
    if found is None or gpus():
        return None
    try:
        build = read_build(found)
    except EngineError:  # it was not requested
        return None
    return build if build.devices else None


@lru_cache(8)
def read_build(path: str) -> Build:
    """Return the build at a path, or of that name on PATH. Raises EngineError, with one line that says what to do."""
    found = shutil.which(os.path.expanduser(path))
    if found is None:
        problem = "the file is not executable" if os.path.exists(path) else "no such file"
        raise EngineError(f"LLAMA_SERVER={path}: {problem}; name a llama-server executable, or set LLAMA_SERVER=off")
    text = _ask(found, "--help")
    aliases = _aliases(text)
    if missing := [flag for flag in _NEEDED if flag not in aliases]:
        raise EngineError(
            f"LLAMA_SERVER={path}: not a llama-server, because its --help does not list {missing[0]}: "
            "name a llama-server executable, or set LLAMA_SERVER=off"
        )
    listed = _ask(found, "--list-devices") if "--list-devices" in aliases else ""
    devices = listed.partition("Available devices:")[2]
    version = re.search(r"^version: (.+)$", _ask(found, "--version") if "--version" in aliases else "", re.MULTILINE)
    return Build(
        Path(found),
        one_line(version[1].strip()) if version else "of unknown version",
        text,
        aliases,
        tuple(one_line(device) for device in _DEVICE.findall(devices)),
    )


def child_environment() -> dict[str, str]:
    """Return the environment of a llama-server: this one, without variables that would change ggserve's arguments."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLAMA_ARG_", "LLAMA_API_"))}
    kept["GGML_NO_BACKTRACE"] = "1"  # otherwise a failed assertion starts a debugger
    bound_spinning(kept)
    return kept


def _ask(path: str, flag: str) -> str:
    """Return the output of the executable for a flag. Raises EngineError."""
    try:
        process = child_process.start([path, flag], child_environment())
    except OSError as error:
        raise EngineError(
            f"LLAMA_SERVER={path} cannot be run: {error.strerror}; is it built for this machine?"
        ) from error
    try:
        output, _ = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired as error:
        child_process.kill(process)
        process.wait()
        raise EngineError(
            f"LLAMA_SERVER={path} does not answer {flag} within {_SECONDS:.0f} s: is it a llama-server?"
        ) from error
    return output[:_LONGEST].decode("utf-8", "replace")


def _aliases(text: str) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for line in text.splitlines():
        if re.match(_ENTRY, line):
            together = _spellings(line)
            found |= dict.fromkeys(together, together)
    return found


def _spellings(entry: str) -> frozenset[str]:
    """Return the flags that an entry of the help describes: those before its description, which follows two spaces."""
    head = re.sub(r"(--[\w-]+)\(s\)", r"\1, \1s", entry.strip().split("\n")[0])
    return frozenset(_FLAG.findall(re.split(r"\s{2,}(?=[^-\s])", head)[0]))
