"""The registry of loaded models: as many as memory allows, loaded on demand, the least recently used unloaded first.

A request holds a lease on its model, and a leased model is never unloaded. Models load one at a time; requests for
loaded models never wait for that.
"""

import asyncio
import logging
import math
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ggserve.errors import EngineClosed, ModelFileError, QueueFull, UnknownModel
from ggserve.generation import Feature
from ggserve.machine import give_back_memory
from ggserve.model.catalog import Catalog, Listed
from ggserve.model.gguf_model import GGUFModel
from ggserve.model.plan import Report
from ggserve.model.resident import Resident

log = logging.getLogger("ggserve.main")

Result = TypeVar("Result")


class ModelRegistry:
    """The loaded models. All methods except `load` belong to one event loop."""

    def __init__(
        self,
        load: Callable[[Listed, Report], GGUFModel],
        *,
        catalog: Catalog | None = None,
        need: Callable[[Listed], int] = lambda listed: listed.size,  # returns the bytes that a load will take; blocks
        memory: float = math.inf,  # memory limit of all models in bytes
        most: int | None = None,  # maximum number of loaded models; None: as many as memory allows
        keep_alive: float | None = None,  # seconds without a request before a model is unloaded; None: never
        queue_size: int = 64,  # requests that can wait for loads
    ) -> None:
        self.catalog = catalog or Catalog()
        self.started = self.catalog.folder is not None  # True if requests find, or can load, a model
        self.progress = 0.0  # fraction of the configured model's file that was read at startup
        self.memory = memory
        self.failures: dict[Path, str] = {}  # the error of the last load, by file
        self._load = load
        self._need = need
        self._most = most
        self._keep_alive = keep_alive
        self._queue_size = queue_size
        self._waiting = 0
        self._residents: dict[Path, Resident] = {}
        self._arriving: dict[Path, Resident] = {}  # models that load or wait to load
        self._turn = asyncio.Lock()  # held while models are loaded or unloaded; first come, first served
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def residents(self) -> list[Resident]:
        """The loaded models, the most recently used first."""
        return sorted(self._residents.values(), key=lambda resident: -resident.used)

    @property
    def arriving(self) -> list[Resident]:
        """The models that are loading or waiting to load."""
        return list(self._arriving.values())

    @property
    def current(self) -> GGUFModel | None:
        """The most recently used loaded model."""
        return next((each.model for each in self.residents if not each.leaving), None)

    @property
    def only(self) -> GGUFModel | None:
        """The loaded model that every request gets; None if the request decides."""
        return self.current if self.catalog.folder is None else None

    @property
    def used(self) -> int:
        """The planned memory of the loaded models in bytes."""
        return sum(resident.need for resident in self._residents.values())

    @property
    def changing(self) -> bool:
        """True while native code loads or frees a model."""
        return any(each.changing for each in (*self._arriving.values(), *self._residents.values()))

    def load(self, path: Path) -> GGUFModel:
        """Load the configured model. Blocks. Raises ModelFileError, TemplateError or EngineError."""

        def report(progress: float) -> None:
            self.progress = progress

        listed = Listed.of(path)
        if self.catalog.folder is None:  # lists have it already; requests are turned away until it is loaded
            self.catalog.configured = listed
        return self._load(listed, report)

    def start(self, model: GGUFModel | None) -> None:
        """Start serving, with the configured model or with only a folder, and start loading pinned models."""
        self.started = True
        if self.catalog.folder:
            self._spawn(self._load_pinned())
        if model is not None:
            kind: Feature = next((each for each in ("generation", "rerank") if each in model.features), "embeddings")
            listed = replace(Listed.of(model.path, model.name), kind=kind, facts=model.facts)
            self.add(listed, model, model.nbytes)

    def add(self, listed: Listed, model: GGUFModel, need: int = 0) -> None:
        """Add a loaded model as the configured one."""
        self.started = True
        self.catalog.configured = listed
        resident = Resident(listed, need, model, keep_alive=self._keep_alive)
        self._residents[listed.path] = resident
        if self._keep_alive is not None:
            resident.rest(self._expire)

    def acquire_loaded(self, name: str | None, keep_alive: float | None = None) -> GGUFModel | None:
        """Return a lease on the named model if it is loaded; see `acquire`."""
        resident = self._loaded(name)
        if resident is None:
            return None
        self._take(resident, keep_alive)
        return resident.model

    async def acquire(self, name: str | None, keep_alive: float | None = None) -> GGUFModel:
        """Return a lease on the named model, which stays in memory until `release`. Without a name, on the most
        recently used one.

        `keep_alive`: seconds that it stays loaded after its last lease, `math.inf` for ever; None: as configured.
        Raises UnknownModel, QueueFull, EngineClosed, and the errors of loading.
        """
        if (model := self.acquire_loaded(name, keep_alive)) is not None:
            return model
        listed = await self._find(name)
        if self._closed:
            raise EngineClosed
        resident = self._residents.get(listed.path)
        if resident is None or resident.leaving or resident.listed.stamp != listed.stamp:
            if self._waiting >= self._queue_size:
                raise QueueFull(self._waiting)
            resident = self._arriving.get(listed.path) or self._begin(listed)
        self._take(resident, keep_alive)
        if resident.ready is not None and not resident.ready.done():
            self._waiting += 1
            try:
                await asyncio.shield(resident.ready)
            except BaseException:
                resident.give_back(self._expire)
                raise
            finally:
                self._waiting -= 1
        assert resident.model is not None
        return resident.model

    def release(self, model: GGUFModel) -> None:
        """End a lease."""
        for resident in self._residents.values():
            if resident.model is model:
                resident.give_back(self._expire)

    @asynccontextmanager
    async def lease(self, name: str | None, keep_alive: float | None = None) -> AsyncIterator[GGUFModel]:
        """Hold a lease on the named model in this block. Raises the same errors as `acquire`."""
        model = await self.acquire(name, keep_alive)
        try:
            yield model
        finally:
            self.release(model)

    async def listed(self) -> list[tuple[Listed, Resident | None]]:
        """Return all models, and those that are loaded."""
        models = await asyncio.to_thread(self.catalog.models)
        return [(listed, self._residents.get(listed.path)) for listed in models]

    async def unload(self, name: str | None) -> Listed:
        """Unload a model when its answers have ended. Does nothing if it is not loaded. Raises UnknownModel."""
        listed = await self._find(name)
        if resident := self._residents.get(listed.path):
            await self._unload(resident)
        return listed

    def close(self) -> None:
        """End every answer and free the models."""
        self._closed = True
        for arriving in self._arriving.values():
            if arriving.ready and not arriving.ready.done():
                arriving.ready.set_exception(EngineClosed())
                arriving.ready.exception()  # nobody may be waiting for it
        for resident in self._residents.values():
            resident.cancel_timer()
            if resident.model is not None and not resident.changing:
                resident.model.close()

    def _take(self, resident: Resident, keep_alive: float | None) -> None:
        resident.take()
        if keep_alive is not None and not resident.listed.settings.pinned:
            resident.keep_alive = None if keep_alive == math.inf else keep_alive

    def _loaded(self, name: str | None) -> Resident | None:
        """Return the resident that a request for `name` gets, if that is known without looking at the folder."""
        if self._closed:
            return None
        for resident in self._residents.values():
            if resident.leaving:
                continue
            if self.catalog.folder is None:
                return resident
            if resident.listed.name == name and resident.listed.unchanged:
                return resident
        return None

    async def _find(self, name: str | None) -> Listed:
        if name or self.catalog.folder is None:
            try:
                return await asyncio.to_thread(self.catalog.find, name or "")
            except UnknownModel:
                self.forget_removed()
                raise
        if residents := [resident for resident in self.residents if not resident.leaving]:
            return residents[0].listed
        models = await asyncio.to_thread(self.catalog.models)
        if listed := self.catalog.configured or next(iter(models), None):
            return listed
        raise UnknownModel("No models: put a GGUF file into MODELS_DIR.")

    def forget_removed(self) -> None:
        """Unload models whose files were deleted."""
        for resident in self._residents.values():
            if resident.listed is not self.catalog.configured and not resident.listed.unchanged:
                self._spawn(self._unload(resident))

    async def _load_pinned(self) -> None:
        for name in await asyncio.to_thread(self.catalog.unknown_settings):
            log.warning("models.toml: no model %r", name)
        for listed in await asyncio.to_thread(self.catalog.models):
            if listed.settings.pinned and listed.path not in self._residents:
                with suppress(Exception):  # the error was logged
                    async with self.lease(listed.name):
                        pass

    def _begin(self, listed: Listed) -> Resident:
        """Start loading a model, after those already waiting."""
        own = listed.settings.keep_alive
        resident = Resident(listed, keep_alive=self._keep_alive if own is None or listed.settings.pinned else own)
        if resident.keep_alive == math.inf or listed.settings.pinned:
            resident.keep_alive = None
        resident.ready = asyncio.get_running_loop().create_future()
        self._arriving[listed.path] = resident
        self._spawn(self._bring(resident, resident.ready))
        return resident

    async def _bring(self, resident: Resident, ready: "asyncio.Future[None]") -> None:
        listed = resident.listed
        try:
            async with self._turn:
                if self._closed:
                    raise EngineClosed
                if not resident.users:  # all waiting requests are gone
                    return
                resident.need = await _in_thread(lambda: self._need(listed))
                await self._make_room(resident)
                resident.changing = True
                model = await _in_thread(lambda: self._load(listed, lambda part: setattr(resident, "progress", part)))
                if self._closed:
                    model.close()
                    return
                resident.model, resident.need = model, model.nbytes
                self.failures.pop(listed.path, None)
                self._residents[listed.path] = resident
                log.info("ready: %s on %s", model.name, model.engine_name)
            if not ready.done():
                ready.set_result(None)
        except Exception as error:
            log.warning("%s was not loaded: %s", listed.name, error)
            self.failures[listed.path] = str(error)
            if not ready.done():
                ready.set_exception(error)
                ready.exception()  # nobody may be waiting for it
        finally:
            resident.changing = False
            del self._arriving[listed.path]
            if resident.model is not None and not resident.users:
                resident.rest(self._expire)

    async def _make_room(self, wanted: Resident) -> None:
        """Unload models until `wanted` fits: idle ones first, then a busy one when it has no lease left. Raises
        ModelFileError if it cannot fit."""
        if wanted.need > self.memory:
            raise ModelFileError(
                f"{wanted.listed.name} needs {wanted.need / 1e9:.2f} GB, but MODELS_MEMORY allows "
                f"{self.memory / 1e9:.2f} GB for all models: set CONTEXT_LENGTH or PARALLEL lower, or MODELS_MEMORY "
                "higher"
            )
        if old := self._residents.get(wanted.listed.path):  # the old model of a replaced file
            await self._remove(old)
        while not self._fits(wanted):
            others = [resident for resident in self._residents.values() if not resident.listed.settings.pinned]
            if not others:
                raise ModelFileError(
                    f"{wanted.listed.name} needs {wanted.need / 1e9:.2f} GB, but pinned models hold "
                    f"{self.used / 1e9:.2f} of the {self.memory / 1e9:.2f} GB of MODELS_MEMORY, or all of MODELS_MAX"
                )
            await self._remove(min(others, key=lambda resident: (resident.users > 0, resident.used)))

    def _fits(self, wanted: Resident) -> bool:
        enough = wanted.need + self.used <= self.memory
        return enough and (self._most is None or len(self._residents) < self._most)

    async def _remove(self, resident: Resident) -> None:
        """Unload a model when it has no lease. The caller holds the turn."""
        resident.leaving = True
        await resident.until_idle()
        if self._residents.get(resident.listed.path) is not resident:
            return
        resident.cancel_timer()
        if resident.model is not None and not self._closed:
            log.info("unloading %s", resident.listed.name)
            resident.changing = True
            await _in_thread(resident.model.close)
            resident.changing, resident.model = False, None
            give_back_memory()
        del self._residents[resident.listed.path]

    async def _unload(self, resident: Resident) -> None:
        resident.leaving = True
        await resident.until_idle()
        async with self._turn:
            await self._remove(resident)

    def _expire(self, resident: Resident) -> None:
        """Unload a model that has not been requested for `keep_alive` seconds."""

        async def unload() -> None:
            async with self._turn:
                if not resident.users and self._residents.get(resident.listed.path) is resident:
                    await self._remove(resident)

        if not resident.users and not self._closed:
            self._spawn(unload())

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _in_thread(function: Callable[[], Result]) -> Result:
    """Return the result of a blocking call in a thread. The process can end without waiting for it."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Result] = loop.create_future()

    def settle(set_it: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has ended
            loop.call_soon_threadsafe(lambda: None if result.done() else set_it())

    def run() -> None:
        try:
            value = function()
        except BaseException as error:
            failure = error
            settle(lambda: result.set_exception(failure))
        else:
            settle(lambda: result.set_result(value))

    threading.Thread(target=run, name="load", daemon=True).start()
    return await result
