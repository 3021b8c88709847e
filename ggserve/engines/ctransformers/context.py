"""A ctransformers context: the C library's weights and KV cache, and the tokens in it.

Never calls LLM.generate, LLM.tokenize or LLM.sample: they overrun buffers, guess tokens and reseed at every token. The
file must have been checked before, because the C++ loader trusts it.
"""

import ctypes
import importlib
import importlib.util
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggserve.engines.contract import EngineOptions
from ggserve.engines.pool import common_prefix
from ggserve.errors import EngineError, GenerationError

PREFILL_CHUNK = 64  # tokens; between chunks a request can be cancelled and threads shared again


def _import_llm() -> ModuleType:
    """Import ctransformers.llm without the package's __init__, which imports a hub client: 0.4 s that nobody needs."""
    if "ctransformers" in sys.modules:
        return importlib.import_module("ctransformers.llm")
    spec = importlib.util.find_spec("ctransformers")
    if spec is None or spec.submodule_search_locations is None:
        raise EngineError("ctransformers is not installed: pip install -r requirements.txt")
    package = ModuleType("ctransformers")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["ctransformers"] = package
    try:
        return importlib.import_module("ctransformers.llm")
    finally:
        del sys.modules["ctransformers"]


def _library() -> str | None:
    """Return the build of the C library for this processor; None leaves the choice to ctransformers (1.3 s slower)."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    return "avx2" if platform.machine() == "x86_64" and " avx2 " in flags and " fma " in flags else None


def cuda_devices() -> int:
    """Return the number of GPUs that NVIDIA's driver has; 0 without a driver.

    Asked before ctransformers' library for GPUs is loaded, because without a driver that library ends the process.
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def cuda_loads() -> bool:
    """Return whether the build for GPUs can be loaded here: it needs CUDA's libraries, a driver and a GPU."""
    if not cuda_devices():
        return False
    try:
        _import_llm()
        library = importlib.import_module("ctransformers.lib")
        library.load_cuda()
        ctypes.CDLL(library.find_library(None, gpu=True))
    except (EngineError, ImportError, OSError):
        return False
    return True


class Context:
    """One ctransformers context and the tokens in its KV cache."""

    chunk = PREFILL_CHUNK  # maximum tokens per eval

    def __init__(self, path: Path, model_type: str, options: EngineOptions) -> None:
        self._path = path
        self._model_type = model_type
        self._context_length = options.context_length
        self._gpu_layers = 0 if options.gpu_layers == "auto" else options.gpu_layers
        self._llm: Any = None
        self.tokens: list[int] = []
        self.prompt_tokens = 0  # those of the last prompt

    @property
    def held(self) -> int:
        """See Slot."""
        return len(self.tokens)

    @property
    def opened(self) -> bool:
        return self._llm is not None

    def open(self) -> None:
        """Map the weights and allocate the KV cache. Raises EngineError."""
        if self._gpu_layers > 0 and not cuda_devices():
            raise EngineError(
                f"GPU_LAYERS={self._gpu_layers} needs an NVIDIA GPU with its driver for ctransformers, but "
                "there is none: install the driver, or set GPU_LAYERS=0"
            )
        module = _import_llm()
        config = module.Config(context_length=self._context_length, gpu_layers=self._gpu_layers)
        library = None if self._gpu_layers > 0 else _library()
        try:
            self._llm = self._load(module, config, library)
        except (OSError, RuntimeError) as error:
            if self._gpu_layers > 0:
                raise EngineError(
                    f"GPU_LAYERS={self._gpu_layers} needs ctransformers' CUDA library, which cannot be loaded "
                    f"({error}): pip install 'ctransformers[cuda]', or set GPU_LAYERS=0"
                ) from error
            raise EngineError(f"ctransformers cannot load {self._path.name}: {error}") from error
        library_functions = self._llm._lib
        self._handle = self._llm._llm
        self._eval = library_functions.ctransformers_llm_batch_eval
        self._logits_data = library_functions.ctransformers_llm_logits_data
        self.vocab_size: int = self._llm.vocab_size

    def reuse(self, prompt: Sequence[int]) -> int:
        """Remove the tokens from the KV cache that `prompt` does not begin with, and return the number of tokens left.

        The prompt's last token is always removed: it is evaluated again for its logits.
        """
        del self.tokens[min(common_prefix(self.tokens, prompt), len(prompt) - 1) :]
        return len(self.tokens)

    def eval(self, tokens: Sequence[int], threads: int) -> None:
        """Append `tokens` to the KV cache and compute the logits after the last one. The caller checks ids."""
        count = len(tokens)
        if len(self.tokens) + count > self._context_length:
            raise GenerationError("The context is full.")  # past its end the library computes nonsense
        ids = (ctypes.c_int * count)(*tokens)
        if not self._eval(self._handle, ids, count, len(self.tokens), count, threads):
            self.tokens.clear()
            raise GenerationError("ctransformers could not evaluate the tokens.")
        self.tokens.extend(tokens)

    def logits(self) -> NDArray[np.float32]:
        """Return float32[n_vocab], a view that the next eval overwrites."""
        return np.ctypeslib.as_array(self._logits_data(self._handle), (self.vocab_size,))

    def embedding(self) -> NDArray[np.float32]:
        """Return float32[embedding length], the embedding of all its tokens at the last one, scaled to length 1."""
        size = self._llm.ctransformers_llm_embeddings_size()
        vector = np.ctypeslib.as_array(self._llm.ctransformers_llm_embeddings_data(), (size,))
        return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)

    def close(self) -> None:
        self._llm = None
        self.tokens.clear()

    def _load(self, module: ModuleType, config: Any, library: str | None) -> Any:
        return module.LLM(str(self._path), self._model_type, config=config, lib=library)
