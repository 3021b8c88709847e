"""The hardware of a model, for `/health` and `/v1/models`."""

from typing import Any

from ggserve.model.gguf_model import GGUFModel


def hardware_fields(model: GGUFModel) -> dict[str, Any]:
    """Return the engine's build, its GPUs, and the reason if they are used less than they should be."""
    hardware = model.hardware
    return {
        "engine_build": hardware.build,
        "devices": list(hardware.devices),
        "gpu_layers": hardware.layers,
        "fallback": hardware.fallback,
    }
