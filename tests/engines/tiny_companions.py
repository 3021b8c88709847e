"""Files that accompany a tiny model: a projector for images, a LoRA adapter. Random weights."""

from pathlib import Path

import gguf
import numpy as np

from tests.engines.tiny_models import LAYERS, WIDTH

SEEN = 32  # width of the vision encoder
SIDE, PATCH = 28, 14  # pixels


def write_projector(path: Path, *, sees: bool = True) -> Path:
    """A vision transformer of two layers, and a perceptron of two into the model's width; `sees`: what it says of
    itself."""
    random = np.random.default_rng(0)

    def add(name: str, *shape: int, bias: bool = False) -> None:
        writer.add_tensor(f"{name}.weight", (random.standard_normal(shape) * 0.02).astype(np.float32))
        if bias:
            writer.add_tensor(f"{name}.bias", np.zeros(shape[0], np.float32))

    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", sees)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", True)
    sizes = {
        "image_size": SIDE,
        "patch_size": PATCH,
        "embedding_length": SEEN,
        "feed_forward_length": 2 * SEEN,
        "projection_dim": WIDTH,
        "block_count": 2,
        "attention.head_count": 2,
    }
    for key, value in sizes.items():
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    for key in ("image_mean", "image_std"):
        writer.add_array(f"clip.vision.{key}", [0.5, 0.5, 0.5])
    writer.add_tensor("v.class_embd", np.zeros(SEEN, np.float32))
    add("v.patch_embd", SEEN, 3, PATCH, PATCH)
    add("v.position_embd", (SIDE // PATCH) ** 2 + 1, SEEN)
    add("v.pre_ln", SEEN, bias=True)
    for layer in range(2):
        block = f"v.blk.{layer}."
        for name in ("ln1", "ln2"):
            writer.add_tensor(f"{block}{name}.weight", np.ones(SEEN, np.float32))
            writer.add_tensor(f"{block}{name}.bias", np.zeros(SEEN, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            add(block + name, SEEN, SEEN, bias=True)
        add(f"{block}ffn_up", 2 * SEEN, SEEN, bias=True)
        add(f"{block}ffn_down", SEEN, 2 * SEEN, bias=True)
    add("mm.0", WIDTH, SEEN, bias=True)
    add("mm.2", WIDTH, WIDTH, bias=True)
    return _written(writer, path)


def write_adapter(path: Path, architecture: str = "qwen2", width: int = WIDTH, seed: int = 0) -> Path:
    """A LoRA adapter of rank 4 for the queries."""
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for layer in range(LAYERS):
        name = f"blk.{layer}.attn_q.weight"
        writer.add_tensor(f"{name}.lora_a", (0.5 * random.standard_normal((4, width))).astype(np.float32))
        writer.add_tensor(f"{name}.lora_b", (0.5 * random.standard_normal((width, 4))).astype(np.float32))
    return _written(writer, path)


def _written(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
