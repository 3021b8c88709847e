"""`models.toml` in MODELS_DIR: settings of single models, checked when the server starts."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from ggserve.durations import seconds
from ggserve.errors import ModelFileError
from ggserve.generation import SAMPLING_DEFAULTS
from ggserve.model.plan import LoadOptions
from ggserve.settings import Settings

NAME = "models.toml"
_NOT_HERE = {"cache_dir", "queue_size"}  # of the whole server
_LOAD = [each.name for each in fields(LoadOptions) if each.name in Settings.model_fields and each.name not in _NOT_HERE]


@dataclass(frozen=True)
class ModelSettings:
    """The settings of one model; those that are not set are as for all models."""

    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))  # of LoadOptions
    sampling: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))  # of SamplingParams
    aliases: tuple[str, ...] = ()  # other names, in lower case
    keep_alive: float | None = None  # seconds without a request before it is unloaded, `math.inf`: never
    pinned: bool = False  # loaded at the start, and never unloaded to make room


def read_models_file(path: Path) -> dict[str, ModelSettings]:
    """Return the settings of each model by its name in lower case; empty if there is no such file. Raises
    ModelFileError with the line and the key of the first mistake."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path}: cannot be read: {error}") from error
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ModelFileError(f"{path}: {error}") from error
    found: dict[str, ModelSettings] = {}
    named: dict[str, str] = {}  # by alias
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ModelFileError(f"{path}, line {_line(text, None, name)}: {name} belongs in a model's table, [NAME]")
        try:
            given = _Table.model_validate(table)
        except ValidationError as error:
            first = error.errors()[0]
            key = str(first["loc"][0])
            problem = "no such setting" if first["type"] == "extra_forbidden" else first["msg"]
            raise ModelFileError(f"{path}, line {_line(text, name, key)}: {key} of {name!r}: {problem}") from None
        settings = _settings(given, path.parent)
        for alias in settings.aliases:
            if other := named.get(alias):
                line = _line(text, name, "aliases")
                raise ModelFileError(f"{path}, line {line}: aliases of {name!r}: {alias!r} already means {other!r}")
            named[alias] = name
        found[name.lower()] = settings
    return found


class _Base(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    aliases: list[str] = []
    keep_alive: Annotated[float, BeforeValidator(seconds)] | None = None
    pinned: bool = False


def _optional(name: str) -> Any:
    """Return an optional field for a setting, with the checks of the environment variable of that name."""
    info = Settings.model_fields[name]
    return Annotated[info.annotation, Field(), *info.metadata] | None, None


_Table: type[BaseModel] = create_model(
    "_Table", __base__=_Base, **{name: _optional(name) for name in (*_LOAD, *SAMPLING_DEFAULTS)}
)


def _settings(table: BaseModel, folder: Path) -> ModelSettings:
    given = table.model_dump(exclude_unset=True, exclude_none=True)
    options = {name: value for name, value in given.items() if name in _LOAD}
    for name, value in options.items():
        if isinstance(value, Path):
            options[name] = folder / value.expanduser()
        if name == "lora_path":
            options[name] = tuple(folder / path.expanduser() for path in value)
    if (template := options.get("chat_template")) and (folder / template).is_file():
        options["chat_template"] = str(folder / template)
    return ModelSettings(
        MappingProxyType(options),
        MappingProxyType({name: value for name, value in given.items() if name in SAMPLING_DEFAULTS}),
        tuple(alias.lower() for alias in given.get("aliases", ())),
        given.get("keep_alive"),
        given.get("pinned", False),
    )


def _line(text: str, table: str | None, key: str) -> int:
    """Return the number of the line that sets a key in a table, or of the table if it cannot be found."""
    current: str | None = None
    found = 1
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("["):
            try:
                current = next(iter(tomllib.loads(line)), None)
            except tomllib.TOMLDecodeError:  # the end of a list
                continue
            found = number if current == table else found
        elif current == table and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line):
            return number
    return found
