"""The catalog of model files that may be loaded: the configured one, and those under MODELS_DIR, by name. Loads
nothing."""

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from ggserve.engines.choice import choose_engine
from ggserve.errors import EngineError, ModelFileError, TemplateError, UnknownModel
from ggserve.generation import Feature
from ggserve.hub import pick
from ggserve.model.models_file import NAME, ModelSettings, read_models_file
from ggserve.modelfile.facts import ModelFacts, model_facts
from ggserve.modelfile.file import is_embedding_model, is_reranker, read_model_file
from ggserve.modelfile.split_files import part_names, without_part

log = logging.getLogger("ggserve.main")

_SUFFIXES = (".gguf", ".bin", ".ctransformers")
_USUAL = "q4_k_m"  # the quantization to use if several files have a name
_HUB = re.compile(r"(?:^|/)models--([^/]+?)--([^/]+)/snapshots/([^/]+)/(.+)$")  # a path in a hub's cache
_QUANTIZATION = re.compile(r"(?<![a-z0-9])((?:UD-)?I?Q\d+_[A-Z0-9_]+|MXFP4\w*|BF16|F16|F32)(?=$|[-.])", re.IGNORECASE)


@dataclass(frozen=True)
class Listed:
    """A model file that an engine can run."""

    name: str
    path: Path
    created: int  # seconds since 1970
    size: int  # size in bytes of all its files
    stamp: tuple[int, int] = (0, 0)  # changes when the file is replaced
    kind: Feature = "generation"  # or "embeddings", "rerank"
    settings: ModelSettings = field(default_factory=ModelSettings, compare=False)
    facts: ModelFacts | None = field(default=None, compare=False)  # without metadata and template

    @classmethod
    def of(cls, path: Path, name: str | None = None) -> "Listed":
        """Return the entry of a file. Raises OSError if it is gone."""
        stat = path.stat()
        return cls(name or model_name(path), path, int(stat.st_mtime), model_bytes(path), _stamp(stat))

    @property
    def unchanged(self) -> bool:
        """Return whether the file still exists and is the same."""
        try:
            return _stamp(self.path.stat()) == self.stamp
        except OSError:
            return False

    @property
    def spellings(self) -> frozenset[str]:
        """The names that clients use for it, in lower case: with and without folder, tag and `:latest`, and aliases."""
        name = self.name.lower()
        names = {name, name.rpartition("/")[2], self.path.name.lower()}
        if ":" in name:
            names.add(name.partition(":")[0])
        elif "/" in name:
            folder = name.rpartition("/")[0]
            names.add(folder)
            if found := quantization(self.path.name):
                names.add(f"{folder}:{found.lower()}")
        names |= set(self.settings.aliases)
        return frozenset(names | {f"{each}:latest" for each in names if ":" not in each})


class Catalog:
    """The models of a folder, and the configured one. Its methods block while the file system responds."""

    def __init__(self, folder: Path | None = None) -> None:
        """Read `models.toml` too. Raises ModelFileError."""
        self.folder = folder  # None: only the configured model
        self._settings = read_models_file(folder / NAME) if folder else {}
        self.configured: Listed | None = None
        self._files_known: dict[tuple[Path, tuple[int, int]], tuple[Feature, ModelFacts] | None] = {}

    def models(self) -> list[Listed]:
        """Return all models by name. Reads the headers of new files."""
        found: dict[str, Listed] = {}
        for name, path in self._files() if self.folder else ():
            try:
                listed = Listed.of(path, name)
                listed = replace(listed, settings=self._settings_of(listed))
                known = self._known(listed)
                if known and (name not in found or _is_current(path)):
                    kind, facts = known
                    found[name] = replace(listed, kind=kind, facts=facts)
            except OSError as error:  # removed meanwhile, or unreadable
                log.warning("not listed: %s: %s", path, error.strerror or error)
        models = [found[name] for name in sorted(found)]
        if self.configured and all(model.path != self.configured.path for model in models):
            models.append(self.configured)
        return models

    def find(self, name: str) -> Listed:
        """Return the model that a client means by `name`. Raises UnknownModel, which lists the names."""
        if self.folder is None and self.configured:
            return self.configured
        models = self.models()
        fitting = [model for model in models if model.name == name]
        fitting = fitting or [model for model in models if name.lower() in model.spellings]
        if len(fitting) > 1:
            usual = [model for model in fitting if _USUAL in model.path.name.lower()]
            fitting = usual if len(usual) == 1 else fitting
        if len(fitting) == 1:
            return fitting[0]
        names = ", ".join(model.name for model in fitting or models) or "none"
        problem = "matches several models" if fitting else "does not exist"
        raise UnknownModel(f"The model {name!r} {problem}. Available models: {names}.")

    def unknown_settings(self) -> list[str]:
        """Return the names in `models.toml` that no model has."""
        models = self.models() if self._settings else []
        return [name for name in self._settings if not any(name in model.spellings for model in models)]

    def _settings_of(self, listed: Listed) -> ModelSettings:
        exact = self._settings.get(listed.name.lower())
        names = sorted(listed.spellings & self._settings.keys())
        return exact or (self._settings[names[0]] if names else listed.settings)

    def _files(self) -> Iterator[tuple[str, Path]]:
        """Yield the name and the first file of each model in the folder and its subfolders, following links."""
        assert self.folder is not None
        seen: set[str] = set()
        for root, folders, files in os.walk(self.folder, followlinks=True):
            if (real := os.path.realpath(root)) in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
            sizes = {}
            for file in files:
                try:
                    sizes[file] = os.stat(os.path.join(root, file)).st_size
                except OSError:  # removed meanwhile, or a broken link
                    continue
            whole = [name for name in pick.models(sizes) if all(part in sizes for part in part_names(name))]
            taken: set[str] = set()
            for file in whole:
                path = Path(root, file)
                name = _name(path.relative_to(self.folder).as_posix())
                yield name if name not in taken else f"{name}{path.suffix}", path
                taken.add(name)

    def _known(self, listed: Listed) -> tuple[Feature, ModelFacts] | None:
        """Return the purpose and the facts of a model, or None if no engine can run the file."""
        key = listed.path, listed.stamp
        if key not in self._files_known:
            try:
                self._files_known[key] = read_facts(listed.path, listed.settings.options.get("model_type"))
            except (ModelFileError, EngineError, TemplateError) as error:
                log.warning("not listed: %s", error)
                self._files_known[key] = None
        return self._files_known[key]


def read_facts(path: Path, model_type: str | None = None) -> tuple[Feature, ModelFacts]:
    """Return the purpose of a model, and its facts without metadata and template. `model_type`: the family of a legacy
    file. Raises ModelFileError, EngineError or TemplateError if no engine can run the file."""
    file = read_model_file(path, model_type)
    choose_engine(file)
    kind: Feature = "rerank" if is_reranker(file) else "embeddings" if is_embedding_model(file) else "generation"
    return kind, replace(model_facts(file), metadata={}, chat_template=None)


def model_name(path: Path) -> str:
    """Return the name of a model by its file."""
    name = without_part(path.name)
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return _readable(name)


def model_bytes(path: Path) -> int:
    """Return the size of all files of a model."""
    return sum(path.with_name(name).stat().st_size for name in part_names(path.name))


def quantization(file: str) -> str | None:
    """Return the quantization in a file's name, such as "Q4_K_M"."""
    found = _QUANTIZATION.findall(model_name(Path(file)))
    return str(found[-1]) if found else None


def _name(relative: str) -> str:
    """Return `org/name:Q4_K_M` in a hub's cache, otherwise the path without its suffix."""
    if match := _HUB.search(relative):
        organization, name, _, file = match.groups()
        return f"{organization}/{name}:{quantization(file) or model_name(Path(file))}"
    path = PurePosixPath(relative)
    return _readable(path.with_name(model_name(Path(path.name))).as_posix())


def _readable(name: str) -> str:
    """Return a name that JSON and a terminal can show: file names may contain any bytes."""
    return "".join(each if each.isprintable() else "\ufffd" for each in name)


def _is_current(path: Path) -> bool:
    """Return whether a file in a hub's cache belongs to the last known revision of the main branch."""
    match = _HUB.search(path.as_posix())
    if match is None:
        return False
    ref = Path(path.as_posix()[: match.start(3)]).parent / "refs" / "main"
    return ref.is_file() and ref.read_text().strip() == match[3]


def _stamp(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_mtime_ns, stat.st_size
