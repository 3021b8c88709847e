"""The supervisor: `python main.py` in two processes. This one starts the worker that serves, and restarts it if a
signal from native code kills it. It imports next to nothing, and knows nothing of what a worker does."""

import os
import signal
import socket
import sys
import time

from ggserve import temporary

_PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
_STOPS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
_RESTARTS = 5  # crashes in a row, after which it gives up
_LONG_LIFE = 600.0  # seconds after which a worker's crash counts as the first again
_WHY = {
    "SIGBUS": "the model file was changed while it was in use; replace files by rename",
    "SIGKILL": "memory may have run out",
    "SIGABRT": "an assertion in native code failed; see model.log",
    "SIGSEGV": "native code crashed",
    "SIGILL": "native code uses instructions that this CPU does not have",
}


class Worker:
    """The worker's side of its supervisor."""

    def __init__(self, line: socket.socket, sockets: list[socket.socket], death: str | None) -> None:
        self.sockets = sockets  # sockets that the previous worker listened on, with clients waiting in them
        self.death = death  # the reason why this worker was started; None: it is the first
        self._line = line

    def listens(self, sockets: list[socket.socket]) -> None:
        """Give the sockets to the supervisor for the next worker."""
        socket.send_fds(self._line, [b"listening"], [each.fileno() for each in sockets])

    def ready(self) -> None:
        """Mark the worker as ready, so that a later crash restarts it."""
        self._line.send(b"ready")

    def fileno(self) -> int:
        """Return the number of a socket that becomes readable when the supervisor is gone."""
        return self._line.fileno()


def supervise() -> Worker | None:
    """Supervise workers. Returns only in a worker, or None if there can be no supervisor (no fork): then this process
    serves by itself."""
    if not hasattr(os, "fork"):
        return None
    return _Supervisor().run()


class _Supervisor:
    def __init__(self) -> None:
        self._pid = 0
        self._signals = 0  # the signal that asked it to stop
        self._sockets: list[socket.socket] = []
        self._line: socket.socket | None = None
        self._ready = False
        # A signal that was ignored from the beginning stays ignored, like SIGHUP under nohup.
        numbers = (getattr(signal, name) for name in _PASSED_ON)
        self._numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]

    def run(self) -> Worker:
        deaths, death = 0, None
        while True:
            started = time.monotonic()
            if (worker := self._start(death)) is not None:
                return worker
            status = os.waitpid(self._pid, 0)[1]
            temporary.remove_folders(self._pid)
            self._pid = 0
            self._listen_to_worker()
            if os.WIFEXITED(status):
                os._exit(os.WEXITSTATUS(status))
            number = os.WTERMSIG(status)
            name = signal.Signals(number).name
            death = f"{name}: {_WHY[name]}" if name in _WHY else name
            if self._signals > 2 and name == "SIGKILL":
                self._end("killed by the third signal", 130)
            if self._signals:
                self._end("interrupted while loading" if name in _STOPS else f"killed by {death}", 130)
            deaths = 1 if time.monotonic() - started > _LONG_LIFE else deaths + 1
            if not self._ready:
                self._end(f"the worker was killed by {death}", 128 + number)
            if deaths > _RESTARTS:
                self._end(f"the worker was killed by {death}; giving up after {deaths} crashes in a row", 128 + number)
            _say(f"the worker was killed by {death}. Restarting it")
            self._pause(0.0 if deaths == 1 else min(2.0 ** (deaths - 2), 30.0))

    def _start(self, death: str | None) -> Worker | None:
        """Fork: return a Worker in the child, None here."""
        numbers = self._numbers
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        # block signals until it is known which process to pass them to
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        self._pid = os.fork()
        if self._pid == 0:
            for number in numbers:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
            here.close()
            return Worker(there, self._sockets, death)
        there.close()
        if self._line:
            self._line.close()
        self._line = here
        for number in numbers:
            signal.signal(number, self._pass_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        return None

    def _pass_on(self, number: int, frame: object) -> None:
        if signal.Signals(number).name in _STOPS:
            self._signals += 1
            self._listen_to_worker()
            for each in self._sockets:  # otherwise clients would wait for a worker that does not come
                each.close()
            self._sockets = []
        if self._pid:
            os.kill(self._pid, signal.SIGKILL if self._signals > 2 else number)

    def _listen_to_worker(self) -> None:
        """Receive what the worker has sent so far."""
        if self._line is None:
            return
        self._line.setblocking(False)
        try:
            while True:
                said, descriptors, _, _ = socket.recv_fds(self._line, 64, 16)
                if not said:
                    return
                if descriptors:
                    for each in self._sockets:
                        each.close()
                    self._sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
                self._ready = self._ready or b"ready" in said
        except OSError:
            return

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._signals:
            time.sleep(0.05)
        if self._signals:
            os._exit(130)

    def _end(self, message: str, code: int) -> None:
        _say(message)
        os._exit(code)


def _say(message: str) -> None:
    print(f"ggserve: {message}", file=sys.stderr, flush=True)
