"""A local inference server for GGUF and GGML models. `GGUFModel` is imported on first use because importing it is
slow."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ggserve.generation import SamplingParams
    from ggserve.model import GGUFModel

__all__ = ["GGUFModel", "SamplingParams", "__version__"]
__version__ = "0.3.0"


def __getattr__(name: str) -> Any:
    if name in ("GGUFModel", "SamplingParams"):
        from ggserve import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
