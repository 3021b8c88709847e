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
    model: GGUFModel | None = None  # None: it is not loaded yet
    progress: float = 0.0  # part of the file that has been read
    users: int = 0  # leases, those that wait for the load included
    keep_alive: float | None = None  # seconds without a request before it is unloaded; None: never
    used: float = field(default_factory=time.monotonic)  # when the last lease began or ended
    expires: float | None = None  # seconds since 1970 when it will be unloaded, where it is idle and that is known
    leaving: bool = False  # it is unloaded at the end of its last lease, and gets no new one
    changing: bool = False  # native code loads or frees it just now
    ready: "asyncio.Future[None] | None" = None  # of the load
    _timer: asyncio.TimerHandle | None = None
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    async def until_idle(self) -> None:
        """Return once no lease is left."""
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
        """Start the time after which an idle model is unloaded."""
        self.used = time.monotonic()
        if self.keep_alive is not None:
            self.expires = time.time() + self.keep_alive
            self._timer = asyncio.get_running_loop().call_later(self.keep_alive, then, self)

    def cancel_timer(self) -> None:
        """Stops that time."""
        if self._timer:
            self._timer.cancel()
