"""Contexts of the legacy GGML families, whose C++ code keeps its buffers in static variables.

Each context has its own copy of the shared library, and first runs the evals that make those buffers large enough.
`modelfile.legacy.buffers` decides what to run, and how many tokens an eval may take. Nothing frees those buffers, 768
MiB in some families: a context that is closed leaves its copy to the next one.
"""

import ctypes
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ggserve import temporary
from ggserve.engines.contract import EngineOptions
from ggserve.engines.ctransformers.context import Context
from ggserve.errors import GenerationError
from ggserve.links import link

# Folders with copies of a library that no context uses. They must exist as long as the process: the dynamic linker
# mistakes a file with the inode of a loaded one, deleted or not, for the same library.
_unused: defaultdict[Path, list[tempfile.TemporaryDirectory[str]]] = defaultdict(list)

_TOKENIZER_JSON = '{\n"merges": [\n"a b"\n]\n}\n'


@dataclass(frozen=True)
class LegacySetup:
    """The evaluation of a file. `warm_up`: evals (position, tokens) before the first one. `rewinds`: an eval may start
    before the end of the KV cache's contents. `grouped`: 8 query heads share one of the keys (LLaMA 70B)."""

    chunk: int
    warm_up: tuple[tuple[int, int], ...]
    rewinds: bool
    grouped: bool = False


class LegacyContext(Context):
    """A context of a legacy family."""

    def __init__(self, path: Path, model_type: str, options: EngineOptions, setup: LegacySetup) -> None:
        super().__init__(path, model_type, options)
        self.chunk = setup.chunk
        self._setup = setup
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def open(self) -> None:
        """Copy the weights into memory, unless the family maps them, and allocate the KV cache."""
        super().open()
        for position, count in self._setup.warm_up:
            ids = (ctypes.c_int * count)()
            if not self._eval(self._handle, ids, count, position, count, 1):
                raise GenerationError("ctransformers could not evaluate the first tokens.")

    def reuse(self, prompt: Sequence[int]) -> int:
        """Like Context.reuse, but for families that cannot remove tokens."""
        kept = len(self.tokens)
        if super().reuse(prompt) < kept and not self._setup.rewinds:
            self.tokens.clear()
        return len(self.tokens)

    def close(self) -> None:
        super().close()
        if self._folder is not None:
            _unused[self._original].append(self._folder)
            self._folder = None

    def _load(self, module: ModuleType, config: Any, library: str | None) -> Any:
        original = self._original = Path(module.find_library(library, gpu=self._gpu_layers > 0))
        name = f"{original.parent.name}-{original.name}"
        try:
            self._folder = _unused[original].pop()
        except IndexError:
            self._folder = tempfile.TemporaryDirectory(prefix=temporary.prefix())
            shutil.copyfile(original, Path(self._folder.name, name))
        folder = Path(self._folder.name)
        # The loader mistakes any path with "70b" in it for a model with grouped heads, and recognizes no other.
        renamed = folder / ("model-70b.bin" if self._setup.grouped else "model.bin")
        renamed.unlink(missing_ok=True)
        link(self._path, renamed)
        # Without this file beside an older Falcon file, its loader ends the process. Nothing else reads it.
        (folder / "tokenizer.json").write_text(_TOKENIZER_JSON)
        return module.LLM(str(renamed), self._model_type, config=config, lib=str(folder / name))
