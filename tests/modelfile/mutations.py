"""Damages small GGUF files in the ways that matter: values, types, lengths, shapes, names, single bytes."""

import copy
import random
from typing import Any

from tests.modelfile import tiny_gguf as tiny

NUMBERS = [0, 1, 2, 3, 5, 15, 16, 31, 33, 64, 255, 256, 280, 65535, 2**31 - 1, 2**31, 2**32 - 1]
FLOATS = [0.0, -1.0, 1.0, 1e-30, 1e30, float("inf"), float("nan"), 2.0]
STRINGS = [b"", b"llama", b"gpt2", b"falcon", b"none", b"yarn", b"linear", b"\0", b"<0x0A>", b"\n", b"\xff"]
SETTINGS = ["rope.freq_base", "rope.scale_linear", "rope.scaling.type", "rope.scaling.factor"]
SETTINGS += ["attention.key_length", "attention.head_count_kv", "rope.dimension_count", "logit_scale"]
SPECIAL = [f"tokenizer.ggml.{name}_token_id" for name in ("bos", "eos", "unknown", "seperator", "padding")]


def bases() -> list[tiny.Spec]:
    return [
        tiny.llama(layers=1, embd=32, heads=2),
        tiny.llama(layers=1, embd=32, heads=4, tokenizer="gpt2", matrix=2),
        tiny.falcon(embd=32, heads=2),
        tiny.falcon(embd=32, heads=4, kv_heads=2, new_decoder=True, matrix=8),
    ]


def mutant(base: tiny.Spec, chance: random.Random) -> bytes:
    """One damaged copy of `base`."""
    spec = tiny.Spec(dict(base.fields), dict(base.tensors))
    kind = chance.random()
    if kind < 0.5:
        _field(spec, chance)
    elif kind < 0.75:
        _tensor(spec, chance)
    content = spec.encode()
    if kind < 0.75:
        return content
    weights = sum(len(tensor.content) + -len(tensor.content) % 32 for tensor in spec.tensors.values())
    damaged = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        # The long token lists would take nearly all hits: aim at both ends of the header.
        header = len(content) - weights
        ends = chance.randrange(900), header - chance.randrange(1, 700)
        where = chance.choice([chance.randrange(header), *ends])
        damaged[where] = chance.choice([0, 1, 2, 255, damaged[where] ^ 1 << chance.randrange(8)])
    return bytes(damaged)


def _field(spec: tiny.Spec, chance: random.Random) -> None:
    arch = spec.fields["general.architecture"][1]
    names = [*spec.fields, *(f"{arch}.{name}" for name in SETTINGS), *SPECIAL, "general.file_type"]
    key = chance.choice(names)
    kind, content = spec.fields.get(key, (chance.choice([tiny.U32, tiny.F32, tiny.STRING]), 1))
    if chance.random() < 0.15:
        spec.fields.pop(key, None)
    elif kind == tiny.ARRAY and isinstance(content, tiny.Array):
        spec.fields[key] = (tiny.ARRAY, _array(content, chance))
    else:
        if chance.random() < 0.2:
            kind = chance.choice([tiny.U32, tiny.I32, tiny.F32, tiny.STRING, tiny.U64, tiny.BOOL])
        spec.fields[key] = (kind, _value(kind, chance))


def _value(kind: int, chance: random.Random) -> Any:
    if kind == tiny.STRING:
        return chance.choice(STRINGS)
    if kind == tiny.F32:
        return chance.choice(FLOATS)
    number = chance.choice(NUMBERS)
    return number % 2 if kind == tiny.BOOL else min(number, 2**31 - 1) if kind == tiny.I32 else number


def _array(array: tiny.Array, chance: random.Random) -> tiny.Array:
    values = list(array.values)
    how = chance.randrange(5)
    if how == 0:
        return tiny.Array(array.item, values[: chance.randrange(len(values))])
    if how == 1:
        return tiny.Array(array.item, values + values[:7])
    if how == 2:
        return tiny.Array(tiny.U32, list(range(len(values))))
    if how == 3:
        return tiny.Array(tiny.ARRAY, [tiny.Array(tiny.U8, [1])])
    for _ in range(chance.choice([1, 10, 300])):
        values[chance.randrange(len(values))] = _value(array.item, chance)
    return tiny.Array(array.item, values)


def _tensor(spec: tiny.Spec, chance: random.Random) -> None:
    name = chance.choice(list(spec.tensors))
    tensor = copy.copy(spec.tensors.pop(name))
    how = chance.randrange(5)
    if how == 0:
        return
    if how == 1:
        name = chance.choice([name + "x", "rope_freqs.weight", name.replace("weight", "bias"), name + "\0"])
    elif how == 2:
        tensor.type = chance.choice([0, 1, 2, 3, 6, 8, 9, 10, 14, 15, 16, 24, 26, 28, 30, 39])
    elif how == 3:
        shape = list(tensor.shape)
        shape[chance.randrange(len(shape))] += chance.choice([-32, -1, 1, 32])
        tensor.shape = tuple(max(length, 0) for length in shape)
    else:
        shape = tensor.shape
        tensor.shape = chance.choice([(*shape, 1), shape[::-1], (*shape, 2), shape[:1]])
    tensor.content += bytes(4096)
    spec.tensors[name] = tensor
