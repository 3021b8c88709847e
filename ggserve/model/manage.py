"""Models in the folder of a registry: pulled from a hub, deleted, copied and described."""

import asyncio
import queue
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggserve.chat.infill import infill_objection
from ggserve.chat.reading import format_of
from ggserve.errors import InvalidRequest, ModelFileError
from ggserve.hub import files
from ggserve.hub.companions import projector_beside
from ggserve.hub.progress import Progress, Watch
from ggserve.model.catalog import Listed
from ggserve.model.registry import ModelRegistry
from ggserve.modelfile.facts import ModelFacts, file_sampling, model_facts
from ggserve.modelfile.file import read_model_file
from ggserve.modelfile.gguf import GGUFFile

__all__ = ["Description", "ModelFacts", "Progress", "copy", "delete", "describe", "pull"]

_REPOSITORY = re.compile(r"(?:hf\.co/|huggingface\.co/)?([\w.-]+/[\w.-]+)(?::([\w.-]+))?")
_NAME = re.compile(r"(?!\.)[\w.-]+(/(?!\.)[\w.-]+)*")
_POLL = 0.1  # seconds between two checks of a download


@dataclass(frozen=True)
class Description:
    """The facts of a model that need not be loaded."""

    listed: Listed
    facts: ModelFacts
    context_length: int  # tokens that it was trained on
    capabilities: list[str]  # in Ollama's terms
    sampling: Mapping[str, Any]  # its own default parameters


def fetch(name: str, folder: Path | None, watch: Watch = lambda progress: None) -> Path:
    """Download `org/name` or `org/name:quantization` into a folder, or into the hub library's cache; blocks. Raises
    ModelFileError."""
    match = _REPOSITORY.fullmatch(name.removesuffix(":latest"))
    if match is None:
        raise ModelFileError(f"{name!r} is not a hub repository: write org/name or org/name:Q4_K_M")
    from ggserve.hub.hub import download  # its library takes 0.4 s to import

    return download(match[1], match[2], cache=folder, watch=watch)


async def pull(models: ModelRegistry, name: str) -> AsyncGenerator[Progress, None]:
    """Download a model into the registry's folder, and yield the progress. Closing the generator stops the download,
    and a later one continues it. Raises ModelFileError or InvalidRequest."""
    folder = _folder(models)
    news: queue.SimpleQueue[Progress] = queue.SimpleQueue()
    stopped = False

    def watch(progress: Progress) -> None:
        if stopped:
            raise ModelFileError("the download was stopped")
        news.put(progress)

    task = asyncio.ensure_future(asyncio.to_thread(fetch, name, folder, watch))
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=_POLL)
            last = None
            while not news.empty():
                last = news.get()
            if last:
                yield last
        task.result()
    finally:
        stopped = True
        task.add_done_callback(lambda done: done.cancelled() or done.exception())


async def delete(models: ModelRegistry, name: str) -> None:
    """Delete the files of a model in the registry's folder; it is unloaded when its answers have ended. Raises
    UnknownModel, ModelFileError or InvalidRequest."""
    folder = _folder(models)
    listed = await asyncio.to_thread(models.catalog.find, name)
    if not listed.path.is_relative_to(folder):
        raise InvalidRequest(f"{listed.name} is not in MODELS_DIR: delete its file manually.", "model")
    await asyncio.to_thread(files.remove, listed.path)
    models.forget_removed()


async def copy(models: ModelRegistry, source: str, destination: str) -> None:
    """Give a model of the registry a second name. Raises UnknownModel, ModelFileError or InvalidRequest."""
    folder = _folder(models)
    name = destination.removesuffix(":latest")
    if not _NAME.fullmatch(name):
        message = f"{destination!r} is not a valid name for a copy: use letters, digits, '.', '-', '_' and '/'."
        raise InvalidRequest(message, "destination")
    listed = await asyncio.to_thread(models.catalog.find, source)
    await asyncio.to_thread(files.copy, listed.path, folder, name)


def describe(listed: Listed) -> Description:
    """Read the header of a model's file; blocks. Raises ModelFileError."""
    file = read_model_file(listed.path)
    facts = model_facts(file)
    template = facts.chat_template or ""
    if listed.kind == "generation":
        capabilities = ["completion", "tools"]
        if isinstance(file, GGUFFile) and (listed.settings.options.get("mmproj_path") or projector_beside(file)):
            capabilities.append("vision")
        if template and format_of(template).thought:
            capabilities.append("thinking")
        if infill_objection(file) is None:
            capabilities.append("insert")
    else:
        capabilities = ["embedding"]
    trained = file.get(f"{file.architecture}.context_length", 0)
    sampling = {**file_sampling(facts), **listed.settings.sampling}
    return Description(listed, facts, int(trained), capabilities, sampling)


def _folder(models: ModelRegistry) -> Path:
    if models.catalog.folder is None:
        raise InvalidRequest("The server has only one model: set MODELS_DIR to a folder to manage several.")
    return models.catalog.folder
