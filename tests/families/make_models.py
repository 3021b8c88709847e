"""Makes the tiny model files of this folder and their references. Run by hand; the tests only read the results.

    pip install torch transformers numpy gguf tokenizers
    python tests/families/make_models.py

Each family gets random weights from a fixed seed, two layers, and a vocabulary trained on the text below. The files are
written as the converters of 2023 wrote them. The references are greedy continuations by `transformers` from the very
weights in the file: rounded to F16 or quantized and dequantized again. Replit's own code is not part of `transformers`;
its network is MPT's (ALiBi with a bias of 8, no biases elsewhere), which is.
"""

import json
import math
import random
import re
import struct
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

FILES = Path(__file__).parent / "files"
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.modelfile.tiny_gguf import ARRAY, F32, I32, STRING, U32, Array, Spec, Tensor  # noqa: E402

EMBD, LAYERS, CONTEXT, STEPS, PROMPTS = 32, 2, 64, 20, 4
TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8}
FTYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9}
MARGINS = {"f32": 0.06, "f16": 0.06, "q8_0": 0.15}  # least lead of a greedy token, in logits; of other types:
QUANTIZED_MARGIN = 0.25

TEXT = """
The ferry leaves the harbour at seven, and by eight the island is only a line between the water and the sky.
Nobody on board talks much. The captain's dog sleeps under the bench; it's seen all this before, and it'll see it again.
We've brought bread, cheese, 3 apples, 12 plums and a map from 1987 that shows roads which aren't there any more.
"You can't get lost," she says, "there's one road, and the sea is on both sides of it."  They walk for hours.
def area(width, height):
    if width < 0 or height < 0:
        raise ValueError("a side can't be negative")
    return width * height

In the evening they count the boats: one, two, three; then the light goes, and they count the sounds instead.
At 10:45 the rain begins. It's warm rain, the kind that makes the stones smell, and the children run out into it.
Le café est fermé, the sign says, and below, in another hand: naïve people, come back in May.
The miller's daughter had a theory that every river remembers the shape of the hills it has lost along the way.
for index in range(10):
    total += values[index] * weights[index]

Half of what we know about the winter of 1806 comes from a ledger, in which a clerk noted the price of candles.
The price rose, week after week, and beside the numbers he drew small faces that look more worried on every page.
"""
TOKENIZATIONS = [
    "The ferry leaves at 7:45, and it's raining.",
    "we've  two   spaces    and\ttabs\n\n  indented",
    "café naïve 日本語 😀 ½ cafe\u0301",
    "x = values[10] * 12345 + total;  // 1987",
    "CAPTAIN'S dog'll THEY'RE <notatoken> $5+3=8 ~`^|",
    "   leading and trailing   ",
]


@dataclass
class Family:
    """What to make: the model, its tokenizer, and how the file is written."""

    name: str
    build: Callable[[int], torch.nn.Module]
    tokenizer: Callable[[], Tokenizer]
    write: Callable[..., bytes]
    dtypes: tuple[str, ...]


def parameters(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy().astype(np.float32) for name, value in model.state_dict().items()}


def randomize(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Weights large enough that logits differ clearly and attention looks around."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim == 1:
                value.copy_(1 + 0.2 * noise if name.endswith("weight") else 0.2 * noise)
            elif any(part in name for part in ("wte", "wpe", "embed_in", "embed_tokens", "word_embeddings")):
                value.copy_(noise)
            else:
                value.copy_(noise * 1.6 / EMBD**0.5)
    return model.eval()


# ---------------------------------------------------------------------------------------------------- tokenizers


def byte_bpe(specials: list[str], pre: list, added: list[AddedToken], merges: int = 60, nfc: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(pre)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        [TEXT],
        trainers.BpeTrainer(
            vocab_size=len(specials) + 256 + merges,
            special_tokens=specials,
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    tokenizer.add_tokens(added)
    return tokenizer


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)


def gpt2_tokenizer() -> Tokenizer:
    return specials_last(byte_bpe([], [BYTES], []), ["<|endoftext|>"])


def specials_last(tokenizer: Tokenizer, texts: list[str]) -> Tokenizer:
    tokenizer.add_special_tokens(texts)
    return tokenizer


def gptj_tokenizer() -> Tokenizer:
    return specials_last(byte_bpe([], [BYTES], []), ["<|endoftext|>", "<|extratoken_1|>", "<|extratoken_2|>"])


def neox_tokenizer() -> Tokenizer:
    runs = [AddedToken(" " * n, normalized=True, special=False) for n in range(6, 1, -1)]
    return byte_bpe(["<|endoftext|>", "<|padding|>"], [BYTES], runs, nfc=True)


def dolly_tokenizer() -> Tokenizer:
    return specials_last(neox_tokenizer(), ["### End", "### Instruction:", "### Response:"])


def mpt_tokenizer() -> Tokenizer:
    return specials_last(neox_tokenizer(), ["<|im_start|>", "<|im_end|>"])


def starcoder_tokenizer() -> Tokenizer:
    specials = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<filename>"]
    digits = pre_tokenizers.Digits(individual_digits=True)
    chat = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    return specials_last(byte_bpe(specials, [digits, BYTES], []), chat)


def falcon_tokenizer() -> Tokenizer:
    names = [
        "TITLE",
        "ABSTRACT",
        "INTRODUCTION",
        "SUMMARY",
        "COMMENT",
        "ANSWER",
        "QUESTION",
        "DOMAIN",
        "PREFIX",
        "SUFFIX",
        "MIDDLE",
    ]
    specials = [f">>{name}<<" for name in names] + ["<|endoftext|>"]
    pre = [
        pre_tokenizers.Punctuation("contiguous"),
        BYTES,
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
    ]
    return byte_bpe(specials, pre, [])


def llama_tokenizer() -> Tokenizer:
    """SentencePiece BPE: bytes, then pieces by rank of their merge, then single characters."""
    spaced = " " + TEXT.strip().replace("\n", " ")
    trainer = Tokenizer(models.BPE())
    trainer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer.train_from_iterator([spaced], trainers.BpeTrainer(vocab_size=110, show_progress=False))
    trained = json.loads(trainer.to_str())["model"]
    characters = [piece for piece in trained["vocab"] if len(piece) == 1]
    pieces = [a + b for a, b in trained["merges"]] + characters
    vocab = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + pieces
    ids = {piece: index for index, piece in enumerate(vocab)}
    tokenizer = Tokenizer(
        models.BPE(ids, [tuple(m) for m in trained["merges"]], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return specials_last(tokenizer, ["<s>", "</s>"])


def replit_tokenizer() -> Tokenizer:
    """A unigram vocabulary: pieces of words by how often they stand in the text. (The library's own trainer gives other
    ids each time.)"""
    text = TEXT.replace(" ", "▁")
    counts = Counter(text)
    for word in re.findall("▁*[^▁\n]+", text):
        counts.update(word[i:j] for i in range(len(word)) for j in range(i + 2, min(len(word), i + 7) + 1))
    longest = sorted((piece for piece in counts if len(piece) > 1), key=lambda p: (-counts[p] * len(p), p))[:200]
    pieces = sorted({*longest, *text}, key=lambda piece: (-counts[piece], piece))
    total = sum(counts[piece] for piece in pieces)
    vocab = [("<|unk|>", 0.0), ("<|endoftext|>", 0.0), ("<|pad|>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(vocab + [(p, math.log(counts[p] / total)) for p in pieces], 0, False))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Replace("▁", " ")
    return specials_last(tokenizer, ["<|endoftext|>", "<|pad|>"])


def by_id(tokenizer: Tokenizer) -> list[str]:
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    return sorted(vocab, key=vocab.__getitem__)


def byte_decoder() -> dict[str, int]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = iter(range(0x100, 0x200))
    return {chr(byte) if byte in printable else chr(next(rest)): byte for byte in range(256)}


def raw(token: str) -> bytes:
    decoder = byte_decoder()
    return bytes(decoder[c] for c in token) if all(c in decoder for c in token) else token.encode()


# -------------------------------------------------------------------------------------------------------- writing


def i32(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}i", *numbers)


def counted(data: bytes) -> bytes:
    return i32(len(data)) + data


def stored(array: np.ndarray, dtype: str) -> tuple[int, bytes, np.ndarray]:
    """ggml type, bytes, and the values that the bytes stand for."""
    kind = TYPES[dtype] if array.ndim == 2 else 0
    if kind == 0:
        return 0, array.astype("<f4").tobytes(), array
    if kind == 1:
        half = array.astype("<f2")
        return 1, half.tobytes(), half.astype(np.float32)
    blocks = quantize(array, GGMLQuantizationType(kind))
    return kind, blocks.tobytes(), dequantize(blocks, GGMLQuantizationType(kind))


def tensor(name: str, array: np.ndarray, dtype: str, align: int | None = None) -> bytes:
    """One tensor's entry; `align`: its entry's offset in the file, where data starts at multiples of 32."""
    kind, data, _ = stored(array, dtype)
    head = i32(array.ndim, len(name), kind, *array.shape[::-1]) + name.encode()
    return head + (bytes(-(align + len(head)) % 32) if align is not None else b"") + data


def tensors(head: bytes, named: dict[str, tuple[np.ndarray, str]], aligned: bool = False) -> bytes:
    out = bytearray(head)
    for name, (array, dtype) in named.items():
        out += tensor(name, array, dtype, len(out) if aligned else None)
    return bytes(out)


def ftype(dtype: str) -> int:
    return FTYPES[dtype] + (0 if dtype in ("f32", "f16") else 2000)


MAGIC = struct.pack("<I", 0x67676D6C)
EMBEDDINGS_KEPT_F32 = ("model/wpe",)


def plain(named: dict[str, np.ndarray], dtype: str) -> dict[str, tuple[np.ndarray, str]]:
    return {name: (array, "f32" if name in EMBEDDINGS_KEPT_F32 else dtype) for name, array in named.items()}


def write_gpt2(model, tokenizer: Tokenizer, dtype: str) -> bytes:
    p, config = parameters(model), model.config
    tokens = [raw(token) for token in by_id(tokenizer)]
    head = MAGIC + i32(len(tokens), config.n_positions, EMBD, config.n_head, LAYERS, ftype(dtype), len(tokens))
    head += b"".join(map(counted, tokens))
    named = {"model/wte": p["transformer.wte.weight"], "model/wpe": p["transformer.wpe.weight"]}
    named |= {"model/ln_f/g": p["transformer.ln_f.weight"], "model/ln_f/b": p["transformer.ln_f.bias"]}
    heads, size = config.n_head, EMBD // config.n_head
    for i in range(LAYERS):
        for norm in ("ln_1", "ln_2"):
            named[f"model/h{i}/{norm}/g"] = p[f"transformer.h.{i}.{norm}.weight"]
            named[f"model/h{i}/{norm}/b"] = p[f"transformer.h.{i}.{norm}.bias"]
        for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
            weight, bias = p[f"transformer.h.{i}.{part}.weight"], p[f"transformer.h.{i}.{part}.bias"]
            if config.model_type == "gpt2":
                weight = np.ascontiguousarray(weight.T)  # Conv1D
            elif part == "attn.c_attn":  # one key and value head for all: written out for each
                weight, bias = (
                    np.concatenate([x[:EMBD], *[x[EMBD : EMBD + size]] * heads, *[x[EMBD + size :]] * heads])
                    for x in (weight, bias)
                )
            named[f"model/h{i}/{part.replace('.', '/')}/w"] = weight
            named[f"model/h{i}/{part.replace('.', '/')}/b"] = bias
    return tensors(head, plain(named, dtype))


def write_gptj(model, tokenizer: Tokenizer, dtype: str) -> bytes:
    p, config = parameters(model), model.config
    tokens = [raw(token) for token in by_id(tokenizer)]
    head = MAGIC + i32(len(tokens), CONTEXT, EMBD, config.n_head, LAYERS, config.rotary_dim, ftype(dtype), len(tokens))
    head += b"".join(map(counted, tokens))
    return tensors(head, plain(p, dtype))


def write_neox(model, tokenizer: Tokenizer, dtype: str) -> bytes:
    p, config = parameters(model), model.config
    rotary = int(EMBD / config.num_attention_heads * rotary_share(config))
    residual = int(config.use_parallel_residual)
    n_vocab = tokenizer.get_vocab_size()
    head = MAGIC + i32(n_vocab, CONTEXT, EMBD, config.num_attention_heads, LAYERS, rotary, residual, ftype(dtype))
    for index in range(n_vocab):  # each token decoded by itself, which loses what is half a character
        text = tokenizer.decode([index], skip_special_tokens=False)
        head += counted(text.encode())
    p = {"embed_out.weight" if name == "lm_head.weight" else name: array for name, array in p.items()}
    return tensors(head, plain(p, dtype))


def rotary_share(config) -> float:
    share = getattr(config, "rotary_pct", None)
    return config.rope_parameters["partial_rotary_factor"] if share is None else share


def write_mpt(model, tokenizer: Tokenizer, dtype: str) -> bytes:
    p, config = parameters(model), model.config
    clip = config.attn_config.clip_qkv or 0.0
    decoder = byte_decoder()
    words = ["".join(chr(decoder[c]) if c in decoder else c for c in token) for token in by_id(tokenizer)]
    words += [words[-1]] * (config.vocab_size - len(words))
    head = MAGIC + i32(EMBD, CONTEXT, config.n_heads, LAYERS, config.vocab_size)
    head += struct.pack("<ffi", config.attn_config.alibi_bias_max, clip, ftype(dtype))
    head += b"".join(counted(word.encode()) for word in words)
    return tensors(head, plain(without_head(p), dtype))


def write_replit(model, tokenizer: Tokenizer, dtype: str) -> bytes:
    p, config = parameters(model), model.config
    head = MAGIC + i32(EMBD, CONTEXT, config.n_heads, LAYERS, config.vocab_size, ftype(dtype))
    for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]:
        head += counted(piece.encode()) + struct.pack("<f", score)
    return tensors(head, plain(without_head(p), dtype))


def without_head(p: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array for name, array in p.items() if name != "lm_head.weight"}


def llama_pieces(tokenizer: Tokenizer) -> list[tuple[bytes, float]]:
    pieces = []
    for index, piece in enumerate(by_id(tokenizer)):
        if index < 3:
            pieces.append((b" \xe2\x81\x87 " if index == 0 else b"", 0.0))
        elif index < 259:
            pieces.append((bytes([index - 3]), 0.0))
        else:
            pieces.append((piece.replace("▁", " ").encode(), float(259 - index)))
    return pieces


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


LLAMA_NAMES = {
    "self_attn.q_proj": ("attention.wq", "attn_q"),
    "self_attn.k_proj": ("attention.wk", "attn_k"),
    "self_attn.v_proj": ("attention.wv", "attn_v"),
    "self_attn.o_proj": ("attention.wo", "attn_output"),
    "mlp.gate_proj": ("feed_forward.w1", "ffn_gate"),
    "mlp.down_proj": ("feed_forward.w2", "ffn_down"),
    "mlp.up_proj": ("feed_forward.w3", "ffn_up"),
    "input_layernorm": ("attention_norm", "attn_norm"),
    "post_attention_layernorm": ("ffn_norm", "ffn_norm"),
}


def llama_tensors(model, *, gguf: bool) -> dict[str, np.ndarray]:
    p = parameters(model)
    heads = model.config.num_attention_heads
    top = ("token_embd", "output_norm", "output") if gguf else ("tok_embeddings", "norm", "output")
    hf_top = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    named = {f"{name}.weight": p[hf] for name, hf in zip(top, hf_top, strict=True)}
    for i in range(LAYERS):
        for hf, names in LLAMA_NAMES.items():
            array = p[f"model.layers.{i}.{hf}.weight"]
            if "q_proj" in hf or "k_proj" in hf:
                array = permuted(array, heads)
            named[f"{'blk' if gguf else 'layers'}.{i}.{names[gguf]}.weight"] = array
    return named


def write_llama(model, tokenizer: Tokenizer, dtype: str) -> bytes:
    magic, version = {"f16": (0x67676A74, 1)}.get(dtype, (0x67676A74, 3))
    pieces = llama_pieces(tokenizer)
    heads = model.config.num_attention_heads
    head = struct.pack("<II", magic, version) + i32(len(pieces), EMBD, 32, heads, LAYERS, EMBD // heads, FTYPES[dtype])
    head += b"".join(counted(text) + struct.pack("<f", score) for text, score in pieces)
    return tensors(head, plain(llama_tensors(model, gguf=False), dtype), aligned=True)


def write_falcon(model, tokenizer: Tokenizer, dtype: str) -> bytes:
    p, config = parameters(model), model.config
    tokens = [raw(token) for token in by_id(tokenizer)]
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    old = dtype == "f16"  # as ggjt, which has no merges
    head = struct.pack("<II", *((0x67676A74, 3) if old else (0x67676363, 10)))
    head += i32(len(tokens), EMBD, config.num_attention_heads, 1, LAYERS, 7, FTYPES[dtype])
    head += b"" if old else i32(len(merges))
    head += b"".join(counted(token) + struct.pack("<f", 0.0) for token in tokens)
    if not old:
        head += i32(len(merges)) + b"".join(counted(a.encode()) + counted(b.encode()) for a, b in merges)
    return tensors(head, plain(p, dtype), aligned=True)


def gguf_spec(model, tokenizer: Tokenizer, dtype: str, version: int) -> Spec:
    """As the converters of autumn 2023 wrote it, with byte-level tokens as raw bytes."""
    spec = Spec(version=version)
    config, arch = model.config, model.config.model_type
    put = spec.fields.__setitem__
    put("general.architecture", (STRING, arch))
    put("general.name", (STRING, f"tiny {arch}"))
    put(f"{arch}.context_length", (U32, CONTEXT))
    put(f"{arch}.embedding_length", (U32, EMBD))
    put(f"{arch}.block_count", (U32, LAYERS))
    put(f"{arch}.attention.head_count", (U32, config.num_attention_heads))
    if arch == "llama":
        put("llama.feed_forward_length", (U32, config.intermediate_size))
        put("llama.rope.dimension_count", (U32, EMBD // config.num_attention_heads))
        put("llama.attention.head_count_kv", (U32, config.num_attention_heads))
        put("llama.attention.layer_norm_rms_epsilon", (F32, config.rms_norm_eps))
        named = llama_tensors(model, gguf=True)
        pieces = by_id(tokenizer)
        texts = [piece.encode() for piece in pieces]
        scores = [score for _, score in llama_pieces(tokenizer)]
        kinds = [2, 3, 3] + [6] * 256 + [1] * (len(pieces) - 259)
    else:
        put("falcon.feed_forward_length", (U32, 4 * EMBD))
        put("falcon.attention.head_count_kv", (U32, 1))
        put("falcon.attention.layer_norm_epsilon", (F32, config.layer_norm_epsilon))
        names = {
            "transformer.word_embeddings": "token_embd",
            "transformer.ln_f": "output_norm",
            "lm_head": "output",
            "input_layernorm": "attn_norm",
            "self_attention.query_key_value": "attn_qkv",
            "self_attention.dense": "attn_output",
            "mlp.dense_h_to_4h": "ffn_up",
            "mlp.dense_4h_to_h": "ffn_down",
        }
        named = {}
        for name, array in parameters(model).items():
            name = name.replace("transformer.h.", "blk.")
            for old, new in names.items():
                name = name.replace(old, new)
            named[name] = array
        texts = [raw(token) for token in by_id(tokenizer)]
        scores = [0.0] * len(texts)
        kinds = [3] * 12 + [1] * (len(texts) - 12)
        merges = json.loads(tokenizer.to_str())["model"]["merges"]
        put("tokenizer.ggml.merges", (ARRAY, Array(STRING, [f"{a} {b}".encode() for a, b in merges])))
    ends = (1, 2) if arch == "llama" else (11, 11)
    put("tokenizer.ggml.model", (STRING, "llama" if arch == "llama" else "gpt2"))
    put("tokenizer.ggml.tokens", (ARRAY, Array(STRING, texts)))
    put("tokenizer.ggml.scores", (ARRAY, Array(F32, scores)))
    put("tokenizer.ggml.token_type", (ARRAY, Array(I32, kinds)))
    put("tokenizer.ggml.bos_token_id", (U32, ends[0]))
    put("tokenizer.ggml.eos_token_id", (U32, ends[1]))
    for name, array in named.items():
        kind, data, _ = stored(array, dtype)
        spec.tensors[name] = Tensor(array.shape[::-1], kind, data)
    return spec


# ------------------------------------------------------------------------------------------------------ references


def rounded(model: torch.nn.Module, dtype: str) -> None:
    """Gives the model the weights that the file will hold."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim == 2 and not name.endswith("wpe.weight"):
                value.copy_(torch.from_numpy(stored(value.numpy(), dtype)[2].copy()))


def rounded_as_written(model: torch.nn.Module, dtype: str) -> None:
    """The same, where the file holds a matrix transposed: blocks run along the other axis."""
    if model.config.model_type != "gpt2" or dtype == "f32":
        rounded(model, dtype)
        return
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim == 2 and not name.endswith("wpe.weight"):
                transposed = ".h." in name
                array = np.ascontiguousarray(value.numpy().T) if transposed else value.numpy()
                back = stored(array, dtype)[2]
                value.copy_(torch.from_numpy((back.T if transposed else back).copy()))


@torch.no_grad()
def greedy(model: torch.nn.Module, ids: list[int], banned: list[int], margin: float) -> tuple[list[int], float]:
    """The continuation, and the least lead of its tokens; ends where the lead falls below `margin`."""
    least, tokens = float("inf"), list(ids)
    for _ in range(STEPS):
        logits = model(torch.tensor([tokens])).logits[0, -1]
        best = logits.topk(2)
        least = min(least, float(best.values[0] - best.values[1]))
        if least < margin or int(best.indices[0]) in banned:
            return [], 0.0
        tokens.append(int(best.indices[0]))
    return tokens[len(ids) :], least


def text_after(tokenizer: Tokenizer, continuation: list[int]) -> str:
    """What a continuation adds to a text: its tokens' bytes, without special tokens."""
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    words = by_id(tokenizer)
    special |= {words.index(unknown) for unknown in ("<unk>", "<|unk|>") if unknown in words}
    return b"".join(b"" if i in special else token_bytes(tokenizer, words[i]) for i in continuation).decode(
        "utf-8", "replace"
    )


def token_bytes(tokenizer: Tokenizer, token: str) -> bytes:
    if isinstance(tokenizer.pre_tokenizer, pre_tokenizers.Sequence):
        return raw(token)
    if len(token) == 6 and token.startswith("<0x"):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()


def references(model: torch.nn.Module, tokenizer: Tokenizer, dtype: str, ends: list[int], bos: list[int]) -> list[dict]:
    """Prompts whose greedy continuations lead clearly and vary, so that rounding does not decide them."""
    chooser = random.Random(7)
    found: list[dict] = []
    margin = MARGINS.get(dtype, QUANTIZED_MARGIN)
    for _ in range(20000):
        start = chooser.randrange(len(TEXT) - 60)
        text = TEXT[start : start + chooser.randrange(8, 60)].strip()
        ids = bos + tokenizer.encode(text, add_special_tokens=False).ids
        if not 2 <= len(ids) <= CONTEXT - STEPS:
            continue
        continuation, least = greedy(model, ids, ends, margin)
        if least >= margin and len(set(continuation)) >= 6:
            run = {"prompt": text, "ids": ids, "continuation": continuation, "margin": round(least, 3)}
            found.append(run | {"text": text_after(tokenizer, continuation)})
            if len(found) == PROMPTS:
                return found
    raise SystemExit(f"{model.config.model_type} {dtype}: only {len(found)} prompts with a margin of {margin}")


def families() -> list[Family]:
    def gpt2(n_vocab: int):
        return transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=n_vocab, n_positions=CONTEXT, n_embd=EMBD, n_layer=LAYERS, n_head=4)
        )

    def gptj(n_vocab: int):
        return transformers.GPTJForCausalLM(
            transformers.GPTJConfig(
                vocab_size=n_vocab, n_positions=CONTEXT, n_embd=EMBD, n_layer=LAYERS, n_head=2, rotary_dim=8
            )
        )

    def neox(parallel: bool, share: float):
        return lambda n_vocab: transformers.GPTNeoXForCausalLM(
            transformers.GPTNeoXConfig(
                vocab_size=n_vocab,
                hidden_size=EMBD,
                num_hidden_layers=LAYERS,
                num_attention_heads=2,
                intermediate_size=4 * EMBD,
                rotary_pct=share,
                max_position_embeddings=CONTEXT,
                use_parallel_residual=parallel,
                attn_implementation="eager",
            )
        )

    def mpt(clip: float | None, padding: int):
        return lambda n_vocab: transformers.MptForCausalLM(
            transformers.MptConfig(
                d_model=EMBD,
                n_heads=4,
                n_layers=LAYERS,
                max_seq_len=CONTEXT,
                vocab_size=n_vocab + padding,
                attn_config={"clip_qkv": clip, "alibi": True, "alibi_bias_max": 8},
            )
        )

    def bigcode(n_vocab: int):
        return transformers.GPTBigCodeForCausalLM(
            transformers.GPTBigCodeConfig(
                vocab_size=n_vocab, n_positions=CONTEXT, n_embd=EMBD, n_layer=LAYERS, n_head=4, multi_query=True
            )
        )

    def llama(n_vocab: int):
        return transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=n_vocab,
                hidden_size=EMBD,
                intermediate_size=96,
                num_hidden_layers=LAYERS,
                num_attention_heads=4,
                max_position_embeddings=CONTEXT,
                rms_norm_eps=5e-6,
            )
        )

    def falcon(n_vocab: int):
        return transformers.FalconForCausalLM(
            transformers.FalconConfig(
                vocab_size=n_vocab,
                hidden_size=EMBD,
                num_hidden_layers=LAYERS,
                num_attention_heads=4,
                max_position_embeddings=CONTEXT,
                bias=False,
                multi_query=True,
                parallel_attn=True,
                new_decoder_architecture=False,
                alibi=False,
                tie_word_embeddings=False,
            )
        )

    return [
        Family("gpt2", gpt2, gpt2_tokenizer, write_gpt2, ("f32", "f16", "q4_0")),
        Family("gptj", gptj, gptj_tokenizer, write_gptj, ("f32", "f16", "q4_1")),
        Family("gptneox", neox(False, 0.5), neox_tokenizer, write_neox, ("f32", "f16", "q5_0")),
        Family("dolly-v2", neox(True, 0.25), dolly_tokenizer, write_neox, ("f32", "f16", "q5_1")),
        Family("mpt", mpt(2.0, 5), mpt_tokenizer, write_mpt, ("f32", "f16", "q8_0")),
        Family("replit", mpt(None, 0), replit_tokenizer, write_replit, ("f32", "f16", "q8_0")),
        Family("starcoder", bigcode, starcoder_tokenizer, write_gpt2, ("f32", "f16", "q4_0")),
        Family("llama", llama, llama_tokenizer, write_llama, ("f32", "f16", "q8_0")),
        Family("falcon", falcon, falcon_tokenizer, write_falcon, ("f32", "f16", "q8_0")),
    ]


def make(family: Family) -> None:
    """Writes one family's files and their references."""
    tokenizer = family.tokenizer()
    n_vocab = tokenizer.get_vocab_size(with_added_tokens=True)
    ends = {"<|endoftext|>", "</s>", "<|im_end|>", "<|end|>", "### End"}
    end_ids = [i for i, token in enumerate(by_id(tokenizer)) if token in ends]
    bos = [1] if family.name == "llama" else []
    record = {
        "family": family.name,
        "tokenizations": [
            {"text": text, "ids": bos + tokenizer.encode(text, add_special_tokens=False).ids} for text in TOKENIZATIONS
        ],
        "files": {},
    }
    for dtype in family.dtypes:
        model = randomize(family.build(n_vocab), seed=11)
        if hasattr(model, "tie_weights"):
            model.tie_weights()
        banned = end_ids + list(range(n_vocab, model.config.vocab_size))
        rounded_as_written(model, dtype)
        runs = references(model, tokenizer, dtype, banned, bos)
        # A fresh model for the file: quantizing values that were quantized before could move them.
        fresh = randomize(family.build(n_vocab), seed=11)
        if hasattr(fresh, "tie_weights"):
            fresh.tie_weights()
        name = f"{family.name}.{dtype}.bin"
        (FILES / name).write_bytes(family.write(fresh, tokenizer, dtype))
        record["files"][name] = runs
        gguf_version = {"f16": 2, "q8_0": 3}.get(dtype)
        if family.name in ("llama", "falcon") and gguf_version:
            name = f"{family.name}.{dtype}.v{gguf_version}.gguf"
            gguf_spec(fresh, tokenizer, dtype, gguf_version).write(FILES / name)
            record["files"][name] = runs
        print(family.name, dtype, [run["margin"] for run in runs], n_vocab)
    (FILES / f"{family.name}.json").write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for chosen in families():
        if len(sys.argv) == 1 or chosen.name in sys.argv[1:]:
            make(chosen)
