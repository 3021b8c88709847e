"""Shares the cores between evals. ggml's threads spin at barriers: more threads than cores costs a factor of 50."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager

from ggserve.machine import free_cores

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
    threads can be many times slower than one. So evals use several threads only while these get most of the CPU time
    that they could use, and otherwise one thread until it has a core for itself. `crowded` returns whether other
    programs need some of the cores at the moment; None if that is unknown.
    """

    MOST = 0.8  # share of the CPU time below which several threads are slower than one
    ALL = 0.95  # share of the CPU time that a thread gets without others on its core
    WINDOW = 0.1  # seconds over which several threads are judged
    MIN_REST, MAX_REST = 0.25, 2.0  # seconds over which one thread is judged; doubled at each return to several threads

    def __init__(self, crowded: Callable[[], bool | None]) -> None:
        self.single = False  # True while one thread is faster
        self._crowded = crowded
        self._rest = self.MIN_REST
        self._possible = self._used = 0.0  # CPU seconds since the last decision

    def begin(self) -> None:
        """Begin a request after a time without requests: what was measured before it may no longer be true."""
        if (crowded := self._crowded()) is not None:
            self._decide(single=crowded)

    def record(self, threads: int, possible: float, used: float) -> None:
        """Record the CPU seconds of an eval: those that its threads could use, and those that they got."""
        if (threads == 1) != self.single:
            return  # begun before the decision, or with one thread because of other requests
        self._possible, self._used = self._possible + possible, self._used + used
        if self._possible < (self._rest if self.single else threads * self.WINDOW):
            return
        share = self._used / self._possible
        if self.single:
            self._decide(single=share < self.ALL or self._crowded() is True)
            self._rest = self._rest if self.single else min(2 * self._rest, self.MAX_REST)
        else:
            self._decide(single=share < self.MOST)
            self._rest = self._rest if self.single else max(self._rest / 2, self.MIN_REST)

    def _decide(self, *, single: bool) -> None:
        self.single = single
        self._possible = self._used = 0.0


class Computing:
    """The requests and threads that compute at the same time."""

    def __init__(self) -> None:
        self.requests = 0
        self.in_use = 0  # threads of evals in flight
        self._possible = 0.0  # CPU seconds that they could use so far
        self._since = time.perf_counter()  # when `in_use` changed last
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

    def use(self, threads: int) -> tuple[float, float]:
        """Add to the threads in use, or subtract. Return the CPU seconds that evals could use so far, and those that
        this process got."""
        now = time.perf_counter()
        self._possible += self.in_use * (now - self._since)
        self._since = now
        self.in_use += threads
        return self._possible, time.process_time()


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
        self._pace = Pace(self._crowded)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request that runs in this block, with evals now and then."""
        if not self._computing.requests:
            self._pace.begin()
        with self._computing.request():
            yield

    @contextmanager
    def eval(self) -> Iterator[int]:
        """Run an eval in this block, with the yielded number of threads. Waits for them."""
        ticket, computing = object(), self._computing
        with computing.changed:
            computing.queue.append(ticket)
            while computing.queue[0] is not ticket or not self._may_start(self._share()):
                computing.changed.wait()
            computing.queue.popleft()
            threads = self._share()
            before = computing.use(threads)
            computing.teams += threads > 1
            if computing.queue:
                computing.changed.notify_all()
        try:
            yield threads
        finally:
            with computing.changed:
                possible, used = (now - then for now, then in zip(computing.use(-threads), before, strict=True))
                self._pace.record(threads, possible, used)
                computing.teams -= threads > 1
                if computing.queue:
                    computing.changed.notify_all()

    def _crowded(self) -> bool | None:
        """Look twice before returning True: a thread that runs for a moment, as the event loop does, needs no core."""
        for _ in range(2):
            if (free := free_cores()) is None:
                return None
            if free + self._computing.in_use >= self.total:
                return False
            time.sleep(0.001)
        return True

    def _share(self) -> int:
        return 1 if self._pace.single else max(1, self.total // max(1, self._computing.requests))

    def _may_start(self, threads: int) -> bool:
        computing = self._computing
        alone = threads == 1 and computing.teams == 0 and computing.requests > self.total
        return alone or threads <= self.total - computing.in_use
