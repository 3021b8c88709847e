"""A loaded model: loading, planning, and the registry of loaded models."""

from ggserve.generation import SamplingParams
from ggserve.model.gguf_model import GGUFModel

__all__ = ["GGUFModel", "SamplingParams"]
