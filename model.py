"""`from model import GGUFModel` in a checkout; installed, it is `from ggserve import GGUFModel`."""

from ggserve.model import GGUFModel, SamplingParams

__all__ = ["GGUFModel", "SamplingParams"]
