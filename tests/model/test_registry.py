"""Several models in memory: within the limit, the least recently used idle one is unloaded, and never one in use."""

import asyncio
import math
import shutil
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from ggserve.errors import EngineClosed, ModelFileError, UnknownModel
from ggserve.model.catalog import Catalog, Listed
from ggserve.model.gguf_model import GGUFModel
from ggserve.model.registry import ModelRegistry
from tests.conftest import FAMILY_FILES
from tests.processes import PATIENCE


class Model:
    """A model that takes 10 bytes."""

    engine_name = "none"
    nbytes = 10

    def __init__(self, listed: Listed) -> None:
        self.name, self.path = listed.name, listed.path
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Loads:
    """The models that were loaded, in order. `gate` holds loads up until it is set."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.models: list[Model] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, listed: Listed, report: object) -> GGUFModel:
        self.names.append(listed.name)
        assert self.gate.wait(PATIENCE)
        if listed.name == "broken":
            raise ModelFileError("broken: it is")
        self.models.append(Model(listed))
        return cast(GGUFModel, self.models[-1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b", "c", "broken"):
        shutil.copy(FAMILY_FILES / "llama.f16.v2.gguf", tmp_path / f"{name}.gguf")
    return tmp_path


def run(
    folder: Path, check: Callable[[ModelRegistry, Loads], Awaitable[None]], *, models: float = math.inf, **options: Any
) -> None:
    async def main() -> None:
        loads = Loads()
        registry = ModelRegistry(loads, catalog=Catalog(folder), need=lambda listed: 10, memory=10 * models, **options)
        registry.start(None)
        async with asyncio.timeout(20):
            await check(registry, loads)
        assert len([model for model in loads.models if not model.closed]) == len(registry.residents)
        registry.close()

    asyncio.run(main())


async def ask(registry: ModelRegistry, name: str, keep_alive: float | None = None) -> str:
    async with registry.lease(name, keep_alive) as model:
        return model.name


def names(registry: ModelRegistry) -> set[str]:
    return {resident.listed.name for resident in registry.residents}


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_models_that_fit_stay_and_are_loaded_once(folder: Path) -> None:
    async def check(registry: ModelRegistry, loads: Loads) -> None:
        for _ in range(4):
            assert [await ask(registry, name) for name in ("a", "b")] == ["a", "b"]
        assert loads.names == ["a", "b"]

    run(folder, check, models=2)


def test_the_least_recently_used_idle_model_makes_room(folder: Path) -> None:
    async def check(registry: ModelRegistry, loads: Loads) -> None:
        for name in ("a", "b", "a", "c"):
            await ask(registry, name)
        assert names(registry) == {"a", "c"}
        async with registry.lease("a"):
            await ask(registry, "c")
            await ask(registry, "b")
            assert names(registry) == {"a", "b"}

    run(folder, check, models=2)
    run(folder, check, most=2)


def test_a_model_in_use_is_waited_for_and_its_next_request_comes_behind(folder: Path) -> None:
    async def check(registry: ModelRegistry, loads: Loads) -> None:
        async with registry.lease("a"):
            other = asyncio.create_task(ask(registry, "b"))
            await until(lambda: registry.residents[0].leaving)
            again = asyncio.create_task(ask(registry, "a"))
            await asyncio.sleep(0.01)
            assert loads.names == ["a"]
            assert not loads.models[0].closed
        assert [await other, await again] == ["b", "a"]
        assert loads.names == ["a", "b", "a"]

    run(folder, check, models=1)


def test_a_load_delays_no_request_for_a_loaded_model(folder: Path) -> None:
    async def check(registry: ModelRegistry, loads: Loads) -> None:
        await ask(registry, "a")
        loads.gate.clear()
        other = asyncio.create_task(ask(registry, "b"))
        await until(lambda: registry.changing)
        assert await ask(registry, "a") == "a"
        assert not other.done()
        loads.gate.set()
        assert await other == "b"

    run(folder, check)


def test_requests_at_the_same_time_share_a_load(folder: Path) -> None:
    async def check(registry: ModelRegistry, loads: Loads) -> None:
        assert await asyncio.gather(*(ask(registry, name) for name in "abcabc" * 10)) == list("abcabc" * 10)
        assert sorted(loads.names) == ["a", "b", "c"]

    run(folder, check)


def test_a_model_too_large_even_alone_is_an_error_with_the_numbers(folder: Path) -> None:
    async def check(registry: ModelRegistry, loads: Loads) -> None:
        with pytest.raises(ModelFileError, match=r"a needs 0\.00 GB, but MODELS_MEMORY allows 0\.00 GB"):
            await ask(registry, "a")

    run(folder, check, models=0.5)


def test_a_failed_load_is_the_error_of_all_that_wait_and_of_nobody_else(folder: Path) -> None:
    async def check(registry: ModelRegistry, loads: Loads) -> None:
        answers = await asyncio.gather(
            *(ask(registry, name) for name in ("broken", "a", "broken")), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [ModelFileError, str, ModelFileError]
        assert names(registry) == {"a"}
        assert not registry.arriving

    run(folder, check)


def test_clients_that_leave_during_a_load_leave_no_model_for_good(folder: Path) -> None:
    async def check(registry: ModelRegistry, loads: Loads) -> None:
        loads.gate.clear()
        loading = asyncio.create_task(ask(registry, "a"))
        await until(lambda: registry.changing)
        queued = asyncio.create_task(ask(registry, "b"))
        await until(lambda: len(registry.arriving) == 2)
        loading.cancel()
        queued.cancel()
        await asyncio.wait((loading, queued))
        loads.gate.set()
        await until(lambda: bool(loads.models) and loads.models[0].closed)
        assert loads.names == ["a"]  # the other one was never begun
        await until(lambda: not registry.residents and not registry.arriving)

    run(folder, check, keep_alive=0.01)


def test_keep_alive_of_a_request_counts_from_its_end(folder: Path) -> None:
    async def check(registry: ModelRegistry, loads: Loads) -> None:
        await ask(registry, "a", 0)
        await until(lambda: not registry.residents)
        await ask(registry, "a", math.inf)
        await ask(registry, "b")
        await until(lambda: names(registry) == {"a"})
        async with registry.lease("a", 0):
            assert registry.residents[0].expires is None

    run(folder, check, keep_alive=0.01)


def test_unload_waits_for_answers_and_loads_nothing(folder: Path) -> None:
    async def check(registry: ModelRegistry, loads: Loads) -> None:
        await registry.unload("a")
        assert loads.names == []
        async with registry.lease("a"):
            unloading = asyncio.create_task(registry.unload("a"))
            await asyncio.sleep(0.01)
            assert not loads.models[0].closed
        await unloading
        assert not registry.residents

    run(folder, check)


def test_too_many_that_wait_for_a_load_are_turned_away(folder: Path) -> None:
    async def check(registry: ModelRegistry, loads: Loads) -> None:
        loads.gate.clear()
        tasks = [asyncio.create_task(ask(registry, "a")) for _ in range(5)]
        await until(lambda: sum(task.done() for task in tasks) == 3)
        loads.gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert sorted(type(answer).__name__ for answer in answers) == ["QueueFull"] * 3 + ["str"] * 2

    run(folder, check, queue_size=2)


def test_the_end_of_the_server_waits_for_no_load(folder: Path) -> None:
    async def check(registry: ModelRegistry, loads: Loads) -> None:
        loads.gate.clear()
        waiting = asyncio.create_task(ask(registry, "a"))
        await until(lambda: registry.changing)
        registry.close()
        with pytest.raises(EngineClosed):
            await waiting
        with pytest.raises(EngineClosed):
            await ask(registry, "b")
        assert registry.changing
        loads.gate.set()
        await until(lambda: not registry.changing)

    run(folder, check)


def test_a_removed_file_is_no_model_any_more_and_a_replaced_one_is_loaded_anew(folder: Path) -> None:
    async def check(registry: ModelRegistry, loads: Loads) -> None:
        await asyncio.gather(ask(registry, "a"), ask(registry, "b"))
        (folder / "a.gguf").unlink()
        (folder / "b.gguf").rename(folder / "d.gguf")
        for name in ("a", "b"):
            with pytest.raises(UnknownModel):
                await ask(registry, name)
        assert await ask(registry, "d") == "d"
        await until(lambda: names(registry) == {"d"})
        shutil.copy(FAMILY_FILES / "llama.f16.v2.gguf", folder / "new")
        (folder / "new").replace(folder / "d.gguf")
        assert await ask(registry, "d") == "d"
        assert loads.names.count("d") == 2
        assert len(registry.residents) == 1

    run(folder, check)
