"""The entry point `from model import GGUFModel` of a checkout; in an installed package it is `from ggserve import
GGUFModel`."""

from ggserve.model import GGUFModel, SamplingParams

__all__ = ["GGUFModel", "SamplingParams"]
