"""A loaded model, and how it comes to be: load, plan, registry."""

from ggserve.generation import SamplingParams
from ggserve.model.gguf_model import GGUFModel

__all__ = ["GGUFModel", "SamplingParams"]
