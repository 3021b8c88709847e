"""Shares the cores between evals. ggml's threads spin at barriers: more threads than cores costs a factor of 50."""

import threading
import time
from collections import deque
from collections.abc import Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager

# How long OpenMP's threads spin at a barrier before they sleep. libgomp spins at most GOMP_SPINCOUNT rounds (300,000 by
# default, up to 13 ms), and 1,000 with the policy "active", otherwise 100, while the process has more threads than
# cores, as with two models. 2,000 rounds cost a quiet machine nothing, 1,000 up to 6%, and 100 more than half of the
# speed. LLVM's runtime would never sleep with that policy; it sleeps after KMP_BLOCKTIME milliseconds.
_SPINNING = {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "2000", "KMP_BLOCKTIME": "1"}


def bound_spinning(environment: MutableMapping[str, str]) -> None:
    """Limit how long OpenMP's threads spin at a barrier, unless the user has set a limit. Their time would be lost to
    other programs. libgomp reads the limits when it is loaded."""
    if not _SPINNING.keys() & environment.keys():
        environment.update(_SPINNING)


class Pace:
    """Decides whether several threads are faster than one at the moment.

    If another program keeps a core busy, ggml's threads wait at each barrier for the one that is not running, and two
    threads can be many times slower than one. So the time of one thread is measured with the first tokens, and evals
    that are slower with several threads are followed by some with one.
    """

    SLOWDOWN = 1.5  # times the seconds of one thread
    INITIAL_BACKOFF = 8  # evals with one thread after two slow ones; doubled up to MAX_BACKOFF while it stays slow
    MAX_BACKOFF = 256
    RECOVERY = 32  # consecutive fast evals that end a slow period
    CALIBRATION = 3  # first tokens that measure the time of one thread; the fastest counts

    def __init__(self) -> None:
        self._single = float("inf")  # seconds of a token's eval with one thread
        self._calibrating = self.CALIBRATION  # left
        self._backoff = 0  # evals left to run with one thread
        self._next_backoff = self.INITIAL_BACKOFF
        self._slow = self._good = 0  # in a row

    def wants_one(self, tokens: int) -> bool:
        """Return whether an eval of this many tokens should use one thread."""
        return self._backoff > 0 or (tokens == 1 and self._calibrating > 0)

    def record(self, threads: int, seconds: float) -> None:
        """Record the time of one token's eval."""
        if self._calibrating > 0 and threads == 1:
            self._calibrating -= 1
            self._single = min(self._single, seconds)
        elif threads == 1:
            self._single += 0.2 * (seconds - self._single)
            self._backoff = max(0, self._backoff - 1)
        elif seconds > self.SLOWDOWN * self._single:
            self._slow, self._good = self._slow + 1, 0
            if self._slow == 2:
                self._slow, self._backoff = 0, self._next_backoff
                self._next_backoff = min(2 * self._next_backoff, self.MAX_BACKOFF)
        else:
            self._slow, self._good = 0, self._good + 1
            if self._good == self.RECOVERY:
                self._next_backoff = self.INITIAL_BACKOFF


class Computing:
    """The requests and threads that compute at the same time."""

    def __init__(self) -> None:
        self.requests = 0
        self.in_use = 0  # threads of evals in flight
        self.teams = 0  # evals in flight with several threads
        self.changed = threading.Condition()
        self.queue: deque[object] = deque()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request that computes in this block."""
        with self.changed:
            self.requests += 1
        try:
            yield
        finally:
            with self.changed:
                self.requests -= 1
                self.changed.notify_all()


PROCESS = Computing()  # all engines in this process


class ThreadBudget:
    """Gives each eval its share of `total` threads.

    A lone request gets all of them. When more requests come, each gets an equal share from its next eval on, and the
    evals in flight use at most `total` together. With more requests than threads, each gets one thread and the system
    shares the cores: a single thread waits at no barrier, so that costs nothing, while taking turns here would leave
    cores idle between an eval and the next. Budgets with the same `computing` share the cores with each other.
    """

    def __init__(self, total: int, computing: Computing | None = None) -> None:
        self.total = total
        self._computing = computing or Computing()
        self._pace = Pace()

    def request(self) -> AbstractContextManager[None]:
        """Count a request that runs in this block, with evals now and then."""
        return self._computing.request()

    @contextmanager
    def eval(self, tokens: int) -> Iterator[int]:
        """Run an eval of this many tokens in this block, with the yielded number of threads. Waits for them."""
        ticket, computing = object(), self._computing
        with computing.changed:
            computing.queue.append(ticket)
            while computing.queue[0] is not ticket or not self._may_start(self._share(tokens)):
                computing.changed.wait()
            computing.queue.popleft()
            threads = self._share(tokens)
            computing.in_use += threads
            computing.teams += threads > 1
            if computing.queue:
                computing.changed.notify_all()
        started = time.perf_counter()
        try:
            yield threads
        finally:
            seconds = time.perf_counter() - started
            with computing.changed:
                if tokens == 1:
                    self._pace.record(threads, seconds)
                computing.in_use -= threads
                computing.teams -= threads > 1
                if computing.queue:
                    computing.changed.notify_all()

    def _share(self, tokens: int) -> int:
        return 1 if self._pace.wants_one(tokens) else max(1, self.total // max(1, self._computing.requests))

    def _may_start(self, threads: int) -> bool:
        computing = self._computing
        alone = threads == 1 and computing.teams == 0 and computing.requests > self.total
        return alone or threads <= self.total - computing.in_use
