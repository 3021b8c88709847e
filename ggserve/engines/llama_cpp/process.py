"""A llama-server in a child process: started, watched, and restarted after a crash."""

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import IO

from ggserve.engines.llama_cpp.arguments import CommandLine
from ggserve.engines.llama_cpp.build import Build, child_environment
from ggserve.engines.llama_cpp.listener import PrivateListener
from ggserve.engines.llama_cpp.transport import ServerPlan
from ggserve.errors import EngineClosed, EngineError, EngineUnavailable, one_line

if sys.platform == "win32":
    from ggserve.engines.llama_cpp.job_object import end_together

log = logging.getLogger("ggserve.model")

_MOST_DEATHS = 5  # crashes in a row, after which the model is unavailable
_LONG_LIFE = 600.0  # seconds after which a crash counts as the first again
_GPU_DEATHS, _GPU_SECONDS = 3, 60.0  # this number of crashes within this number of seconds ends the use of the GPU
_DYING = 5.0  # seconds that a process that no longer listens may take to end
_POLL = 0.03  # seconds between checks of a process that is loading
_KEPT_LINES = 200  # of its output
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_LEVEL = re.compile(r"^\S+ ([A-Z]) ")
_REASONS = (  # the most telling first
    re.compile(r"error loading model: (.+)"),
    re.compile(r"(?i)^error: (.+)"),
    re.compile(r"(?i)((?:\S+: )?(?:unable|failed) to allocate .+|.*out of .*memory.*)"),
    re.compile(r"GGML_ASSERT\(.+"),
    re.compile(r"^\S+ E (.+)"),
)


class StartFailed(EngineError):
    """The process ended before it had loaded the model."""


class LlamaServer:
    """Keeps one llama-server running. A thread of its own starts it, because the system ends it together with the
    thread that started it (PR_SET_PDEATHSIG)."""

    def __init__(self, build: Build, plan: ServerPlan) -> None:
        """Start it and wait until it has loaded the model. Raises EngineError."""
        self.listener = PrivateListener(unix="UNIX" in build.flag_help("--host"))
        self.fallback: str | None = None
        self.offloaded: str | None = None
        self._build = build
        self._options = plan.options
        self._on_failure: Callable[[str], object] = lambda reason: None
        self._on_restart: Callable[[], object] = lambda: None
        self._layers: int | None = plan.options.gpu_layers if plan.options.gpu_layers != "auto" else None
        self._fitted = 0  # layers that the last started process put on the GPU
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._changed = threading.Condition()
        self._ready = self._closing = self._restarting = False
        self._failure: EngineError | None = None
        try:
            self.command_line = CommandLine(build, plan, self.listener.folder)
        except EngineError:
            self.listener.close()
            raise
        self._keeper = threading.Thread(target=self._keep, name="llama-server", daemon=True)
        self._keeper.start()
        try:
            self.wait()
        except EngineError:
            self.close()
            raise

    def wait(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Return when requests are answered, or nobody waits any more. Raises EngineUnavailable, or another EngineError
        if the first start failed."""
        with self._changed:
            while not self._ready and not cancelled():
                if self._failure is not None:
                    raise self._failure
                if self._closing:
                    raise EngineClosed
                self._changed.wait(0.25)

    def stream(self, path: str, body: bytes, cancelled: Callable[[], bool]) -> Generator[bytes, None, None]:
        """See PrivateListener.stream. A request that a dying process ignored is sent to the next process, once."""
        for last in (False, True):
            self.wait(cancelled)
            process = self._process
            if process is None or cancelled():
                return
            begun = False
            try:
                for part in self.listener.stream(path, body, cancelled):
                    begun = True
                    yield part
                return
            except (OSError, EOFError):
                if begun or last:
                    raise
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_DYING)
                with self._changed:
                    if process.returncode is None:
                        raise
                    if self._process is process:
                        self._ready = False  # the thread that watches it may not know yet

    def when_failed(self, callback: Callable[[str], object]) -> None:
        """Call `callback`, from another thread, with the reason if it crashes too often."""
        self._on_failure = callback

    def when_restarted(self, callback: Callable[[], object]) -> None:
        """Call it, from another thread, each time a process has loaded the model, before that one gets requests."""
        self._on_restart = callback

    def restart(self) -> None:
        """Restart it with the current command line, and wait for it."""
        with self._changed:
            self._ready = False
            self._restarting = True
        self._kill()
        self.wait()

    def close(self) -> None:
        """End it."""
        with self._changed:
            self._closing = True
            self._ready = False
            self._changed.notify_all()
        self._kill()
        self._keeper.join()
        self.listener.close()

    def _keep(self) -> None:
        deaths: list[float] = []  # the times of crashes in a row
        try:
            self._start()
        except EngineError as error:
            return self._fail(error)
        while True:
            assert self._process is not None
            started = time.monotonic()
            reason = self._why(self._process.wait())
            with self._changed:
                self._ready = False
                restarting, self._restarting = self._restarting, False
            if time.monotonic() - started > _LONG_LIFE:
                deaths.clear()
            while not self._closing:
                try:
                    if not restarting:
                        self._died(reason, deaths)
                    self._start()
                    break
                except EngineClosed:
                    return None
                except EngineUnavailable as error:
                    log.error("%s", error)
                    self._fail(error)
                    self._on_failure(str(error))
                    return None
                except EngineError as error:
                    reason, restarting = str(error), False
            if self._closing:
                return None

    def _fail(self, error: EngineError) -> None:
        with self._changed:
            self._failure = error
            self._changed.notify_all()

    def _died(self, reason: str, deaths: list[float]) -> None:
        """Decide how to continue after another crash. Raises EngineUnavailable if it must not."""
        deaths.append(time.monotonic())
        if len(deaths) >= _MOST_DEATHS:
            raise EngineUnavailable(f"llama-server crashed {len(deaths)} times in a row: {reason}")
        recent = [each for each in deaths if deaths[-1] - each < _GPU_SECONDS]
        if len(recent) >= _GPU_DEATHS and self._options.gpu_layers == "auto" and self._layers != 0:
            self._fall_back(0, f"llama-server crashed {len(recent)} times within a minute on the GPU: {reason}")
            deaths.clear()
            return
        log.warning("llama-server crashed: %s. Restarting it", reason)
        with self._changed:
            self._changed.wait_for(lambda: self._closing, 0.0 if len(deaths) == 1 else 2.0 ** (len(deaths) - 2))

    def _start(self) -> None:
        """Start it, with less on the GPU if that helps. Raises EngineError."""
        while True:
            try:
                self._launch(self._layers)
                break
            except StartFailed as error:
                if self._options.gpu_layers == "auto" and self._layers != 0:
                    fewer = self._fitted // 2 if self._layers is None else 0
                    self._fall_back(fewer, f"llama-server did not start: {error}")
                elif self._layers:
                    raise self._too_many(error) from error
                else:
                    raise EngineError(f"LLAMA_SERVER={self._build.path} did not start: {error}") from error
        self._on_restart()
        with self._changed:
            self._ready = True
            self._changed.notify_all()

    def _fall_back(self, layers: int, reason: str) -> None:
        self._layers = layers
        then = f"trying {layers} layers on the GPU" if layers else "continuing without the GPU"
        log.warning("%s; %s", reason, then)
        self.fallback = f"{layers} layers on the GPU: {reason}" if layers else f"no GPU: {reason}"

    def _too_many(self, error: EngineError) -> EngineError:
        """Return the error for a number of layers that the user chose, with the number that would fit."""
        advice = "set GPU_LAYERS=0, or auto"
        if self._build.has("--fit"):
            try:
                self._launch(None)
                advice = f"{self._fitted} layers would fit: set GPU_LAYERS={self._fitted}, or auto"
            except StartFailed:
                pass
            self._kill()
        return EngineError(f"GPU_LAYERS={self._layers}: llama-server did not start: {error}; {advice}")

    def _launch(self, layers: int | None) -> None:
        """Raise StartFailed."""
        listener = self.listener
        key = listener.folder / "key"
        key.write_text(listener.key)
        listener.path.unlink(missing_ok=True)
        where = ["--host", str(listener.path)]
        if listener.port is not None:
            where = ["--host", "127.0.0.1", "--port", str(listener.port)]
        command = self.command_line.of(layers, [*where, "--api-key-file", str(key)])
        if sys.platform != "win32":
            wrapper = Path(__file__).with_name("exec_child.py")
            command = [sys.executable, "-I", "-S", str(wrapper), str(os.getpid()), *command]
        self._lines.clear()
        self._fitted = 0
        self.offloaded = None
        with self._changed:
            if self._closing:
                raise EngineClosed
            self._process = process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                # With a new marker for each process, prompts with images would be unreadable after a restart.
                env={**child_environment(), "LLAMA_MEDIA_MARKER": f"<__media_{listener.key}__>"},
                start_new_session=True,  # a Ctrl-C is for this process, which ends the child when it is done
            )
        if sys.platform == "win32":
            end_together(process.pid)
        assert process.stdout is not None
        reader = threading.Thread(target=self._read, args=(process.stdout,), name="llama-server's log", daemon=True)
        reader.start()
        while process.poll() is None:
            if listener.ready():
                return
            time.sleep(_POLL)
        reader.join(1.0)
        if self._closing:
            raise EngineClosed
        raise StartFailed(self._why(process.returncode))

    def _read(self, output: IO[bytes]) -> None:
        """Log the output of the process until it ends."""
        with output:
            for raw in output:
                line = one_line(raw.decode("utf-8", "replace").rstrip())
                if not line:
                    continue
                self._lines.append(line)
                if found := _OFFLOADED.search(line):
                    self._fitted = int(found[1])
                    self.offloaded = f"{found[1]} of {found[2]} layers on the GPU" if self._fitted else None
                level = _LEVEL.match(line)
                log.log(logging.WARNING if level and level[1] == "E" else logging.DEBUG, "llama-server: %s", line)

    def _why(self, code: int) -> str:
        """Return why it ended: its last output, and its exit status."""
        ended = f"exit code {code}"
        if sys.platform != "win32" and code < 0:
            ended = f"killed by {signal.Signals(-code).name}"
            if code == -signal.SIGKILL:
                ended += ", memory may have run out"
        for pattern in _REASONS:
            for line in reversed(self._lines):
                if found := pattern.search(line):
                    return f"{(found[1] if pattern.groups else found[0]).strip()[:300]} ({ended})"
        return ended

    def _kill(self) -> None:
        """End the process and its children, without waiting."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
