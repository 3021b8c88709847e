"""Which model is loaded: the one that was configured, or, of a folder of many, the one that a request names.

One at a time: a request for another waits until the running answers have ended, and whoever comes after it waits
behind it. A model that nobody asks for is unloaded after a while, where that is wanted, and loaded again on demand.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from ggserve.engines.choice import choose_engine
from ggserve.errors import EngineError, ModelFileError, QueueFull, TemplateError, UnknownModel
from ggserve.hub import pick
from ggserve.machine import give_back_memory
from ggserve.model.gguf_model import GGUFModel, model_name
from ggserve.model.load import Report
from ggserve.modelfile.file import read_model_file

log = logging.getLogger("ggserve.main")


@dataclass(frozen=True)
class Listed:
    """A model file that an engine can run."""

    name: str
    path: Path
    created: int  # seconds since 1970


class ModelRegistry:
    """The model that is loaded, and those that may be. All methods but `listed` belong to one event loop."""

    def __init__(
        self,
        load: Callable[[Path, Report], GGUFModel],
        *,
        folder: Path | None = None,  # of many; None: only the one given to `start`
        keep_alive: float | None = None,  # seconds without a request before it is unloaded; None: never
        queue_size: int = 64,  # requests that may wait for a load
    ) -> None:
        self.loaded: GGUFModel | None = None
        self.progress = 0.0  # part of the file that the load in progress has read
        self.folder = folder
        self._load = load
        self._keep_alive = keep_alive
        self._queue_size = queue_size
        self._path: Path | None = None  # of the model that is loaded, or was last
        self._users = self._waiting = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self._turn = asyncio.Lock()  # first come, first served
        self._change: asyncio.Future[None] | None = None  # a load or an unload in progress
        self._timer: asyncio.TimerHandle | None = None
        self._checked: dict[tuple[Path, int, int], bool] = {}  # whether a file of that time and size can run

    @property
    def on_demand(self) -> bool:
        """Whether a request may find no model loaded, and is worth loading one."""
        return self.folder is not None or (self._keep_alive is not None and self._path is not None)

    @property
    def idle(self) -> bool:
        """Whether none is loaded, and none is on its way."""
        return self.on_demand and self.loaded is None and self._change is None

    def load(self, path: Path) -> GGUFModel:
        """Loads a file; blocks. Raises ModelFileError, TemplateError or EngineError."""

        def report(progress: float) -> None:
            self.progress = progress

        return self._load(path, report)

    def start(self, model: GGUFModel) -> None:
        """The configured model has been loaded."""
        self._path = model.path
        self.loaded = model
        self._rest()

    def listed(self) -> list[Listed]:
        """The models of the folder, by name. Reads the headers of files that are new: call it in a thread."""
        files = {file.name: file for file in self.folder.iterdir() if file.is_file()} if self.folder else {}
        sizes = {name: file.stat().st_size for name, file in files.items()}
        paths = [files[name] for name in sorted(pick.models(sizes)) if name in files and self._runs(files[name])]
        if self._path and self._path not in paths:
            paths.append(self._path)
        return [Listed(model_name(path), path, int(path.stat().st_mtime)) for path in paths]

    @asynccontextmanager
    async def lease(self, name: str | None) -> AsyncGenerator[GGUFModel, None]:
        """The model of that name, loaded; it stays loaded while the context is open. A single model needs no name.

        Raises UnknownModel, QueueFull, and the errors of a load.
        """
        model = await self._leased(name)
        try:
            yield model
        finally:
            self._release()

    async def _leased(self, name: str | None) -> GGUFModel:
        path = await self._path_of(name)
        if self._waiting >= self._queue_size:
            raise QueueFull(self._waiting)
        self._waiting += 1
        try:
            async with self._turn:
                if self._change is not None:
                    await asyncio.wait({self._change})
                if self.loaded is None or self.loaded.path != path:
                    await self._unused.wait()
                    self._change = asyncio.ensure_future(self._switch(path))
                    await asyncio.shield(self._change)
                assert self.loaded is not None
                self._users += 1
                self._unused.clear()
                if self._timer:
                    self._timer.cancel()
                return self.loaded
        finally:
            self._waiting -= 1

    def _release(self) -> None:
        self._users -= 1
        if not self._users:
            self._unused.set()
            self._rest()

    def close(self) -> None:
        """Ends every answer and frees the model."""
        if self._timer:
            self._timer.cancel()
        if self.loaded is not None:
            self.loaded.close()

    async def _path_of(self, name: str | None) -> Path:
        if self.folder is None and self._path is not None:
            return self._path
        if name and self.loaded is not None and name == self.loaded.name:
            return self.loaded.path
        models = await asyncio.to_thread(self.listed)
        if not name:
            paths = [self._path, *(model.path for model in models)]
            if path := next(filter(None, paths), None):
                return path
        for model in models:
            if model.name == name:
                return model.path
        names = ", ".join(model.name for model in models) or "none"
        raise UnknownModel(f"The model {name!r} is not here. There are: {names}.")

    async def _switch(self, path: Path | None) -> None:
        """Unloads what is loaded and loads `path`, if any."""
        old = self.loaded
        self.loaded = None
        try:
            if old is not None:
                await asyncio.to_thread(old.close)
                del old
                give_back_memory()
            if path is not None:
                model = await asyncio.to_thread(self.load, path)
                self._path = path
                self.loaded = model
                log.info("ready: %s on %s", model.name, model.engine_name)
        finally:
            self._change = None

    def _rest(self) -> None:
        """Starts the time after which an unused model is unloaded."""
        if self._keep_alive is not None:
            self._timer = asyncio.get_running_loop().call_later(self._keep_alive, self._unload)

    def _unload(self) -> None:
        if not self._users and self._change is None and self.loaded is not None:
            log.info("unloaded %s: nobody asked for %g s", self.loaded.name, self._keep_alive)
            self._change = asyncio.ensure_future(self._switch(None))

    def _runs(self, path: Path) -> bool:
        stat = path.stat()
        key = path, stat.st_mtime_ns, stat.st_size
        if key not in self._checked:
            try:
                choose_engine(read_model_file(path))
                self._checked[key] = True
            except (ModelFileError, EngineError, TemplateError) as error:
                log.warning("not listed: %s", error)
                self._checked[key] = False
        return self._checked[key]
