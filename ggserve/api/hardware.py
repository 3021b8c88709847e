"""The hardware of a model, as `/health` and `/v1/models` report it."""

from typing import Any

from ggserve.model.gguf_model import GGUFModel


def hardware_fields(model: GGUFModel) -> dict[str, Any]:
    """Return the engine's build, its GPUs, and whether and why it uses fewer GPU layers than requested."""
    hardware = model.hardware
    return {
        "engine_build": hardware.build,
        "devices": list(hardware.devices),
        "gpu_layers": hardware.layers,
        "fallback": hardware.fallback,
    }
