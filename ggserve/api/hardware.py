"""What a model runs on, as `/health` and `/v1/models` tell it."""

from typing import Any

from ggserve.model.gguf_model import GGUFModel


def hardware_fields(model: GGUFModel) -> dict[str, Any]:
    """The engine's build, its GPUs, and whether and why they do less than they should."""
    hardware = model.hardware
    return {
        "engine_build": hardware.build,
        "devices": list(hardware.devices),
        "gpu_layers": hardware.layers,
        "fallback": hardware.fallback,
    }
