"""A model of the registry in memory: its leases, and the time after which it is unloaded."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ggserve.model.catalog import Listed
from ggserve.model.gguf_model import GGUFModel


@dataclass(eq=False)
class Resident:
    """A model in memory, or on its way there."""

    listed: Listed
    need: int = 0  # bytes: weights and KV cache
    model: GGUFModel | None = None  # None: not loaded yet
    progress: float = 0.0  # fraction of the file that was read
    users: int = 0  # number of leases, including requests that wait for the load
    keep_alive: float | None = None  # seconds without a request before it is unloaded; None: never
    used: float = field(default_factory=time.monotonic)  # when the last lease began or ended
    expires: float | None = None  # time of unloading in seconds since 1970, if it is idle and the time is known
    leaving: bool = False  # it gets no new lease and is unloaded after its last one
    changing: bool = False  # native code is loading or freeing it
    ready: "asyncio.Future[None] | None" = None  # the result of the load
    _timer: asyncio.TimerHandle | None = None
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    async def until_idle(self) -> None:
        """Wait until there is no lease left."""
        while self.users:
            self._idle.clear()
            await self._idle.wait()

    def take(self) -> None:
        """Begin a lease."""
        self.users += 1
        self.used, self.expires = time.monotonic(), None
        if self._timer:
            self._timer.cancel()

    def give_back(self, then: Callable[["Resident"], None]) -> None:
        """End a lease; `then` is called once the model has been idle for `keep_alive` seconds."""
        self.users -= 1
        if not self.users:
            self._idle.set()
            if self.model is not None:
                self.rest(then)

    def rest(self, then: Callable[["Resident"], None]) -> None:
        """Start the timer that unloads an idle model."""
        self.used = time.monotonic()
        if self.keep_alive is not None:
            self.expires = time.time() + self.keep_alive
            self._timer = asyncio.get_running_loop().call_later(self.keep_alive, then, self)

    def cancel_timer(self) -> None:
        """Cancel the timer."""
        if self._timer:
            self._timer.cancel()
