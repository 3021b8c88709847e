"""The layouts of the legacy GGML families: header, vocabulary and tensors in the order of their loaders.

Derived from the loaders of ctransformers 0.2.27.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ggserve.modelfile.gguf_header import TensorInfo
from ggserve.modelfile.legacy.layout import (
    Header,
    Layout,
    Shape,
    UnfitHeader,
    check_layers,
    check_positive,
    check_sizes,
    matrix_type,
    old_blocks,
    projections,
)


class GPT2Layout(Layout):
    """gpt2, and starcoder with its multi-query heads written out as ordinary heads."""

    families = ("gpt2", "starcoder")
    counts_tokens = True
    prefixes = ("model/",)
    kv_bytes = 4

    def hyperparameters(self, magic: str) -> tuple[str, ...]:
        return ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer", "ftype")

    def header(self, values: Mapping[str, Any], magic: str, version: int | None) -> Header:
        check_positive(values, "n_vocab", "n_ctx", "n_embd", "n_head")
        check_layers(values)
        sizes = {key: values[key] for key in ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")}
        header = Header(
            **sizes,
            n_head_kv=values["n_head"],
            n_ff=4 * values["n_embd"],
            n_tokens=values["n_vocab"],
            matrix_type=matrix_type(values["ftype"]),
            fixed_context=True,
        )
        return check_sizes(header, int_arithmetic=True)

    def optional(self) -> frozenset[str]:
        return frozenset({"model/lm_head"})  # without it, the output is tied to model/wte

    def tensors(self, header: Header) -> tuple[dict[str, Shape], dict[str, Shape]]:
        embd, vocab = header.n_embd, header.n_vocab
        norms: dict[str, Shape] = {"model/ln_f/g": (embd,), "model/ln_f/b": (embd,), "model/wpe": (embd, header.n_ctx)}
        matrices: dict[str, Shape] = {"model/wte": (embd, vocab), "model/lm_head": (embd, vocab)}
        for layer in range(header.n_layer):
            block = f"model/h{layer}/"
            norms |= {f"{block}{norm}/{part}": (embd,) for norm in ("ln_1", "ln_2") for part in "gb"}
            names = ("attn/c_attn", "attn/c_proj", "mlp/c_fc", "mlp/c_proj")
            for name, (columns, rows) in zip(names, projections(embd), strict=True):
                matrices[f"{block}{name}/w"] = (columns, rows)
                norms[f"{block}{name}/b"] = (rows,)
        return norms, matrices


class GPTJLayout(Layout):
    """gptj."""

    families = ("gptj",)
    counts_tokens = True
    prefixes = ("transformer.", "lm_head.")
    pool_slack = (5, 10, 512)

    def hyperparameters(self, magic: str) -> tuple[str, ...]:
        return ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer", "n_rot", "ftype")

    def header(self, values: Mapping[str, Any], magic: str, version: int | None) -> Header:
        header = GPT2Layout.header(_GPT2, values, magic, version)
        return check_sizes(replace(header, n_rot=values["n_rot"]), int_arithmetic=True)

    def tensors(self, header: Header) -> tuple[dict[str, Shape], dict[str, Shape]]:
        embd, vocab = header.n_embd, header.n_vocab
        norms: dict[str, Shape] = {"transformer.ln_f.weight": (embd,), "transformer.ln_f.bias": (embd,)}
        norms["lm_head.bias"] = (vocab,)
        matrices: dict[str, Shape] = {"transformer.wte.weight": (embd, vocab), "lm_head.weight": (embd, vocab)}
        for layer in range(header.n_layer):
            block = f"transformer.h.{layer}."
            norms |= {f"{block}ln_1.weight": (embd,), f"{block}ln_1.bias": (embd,)}
            norms |= {f"{block}mlp.fc_in.bias": (4 * embd,), f"{block}mlp.fc_out.bias": (embd,)}
            matrices |= {f"{block}attn.{name}_proj.weight": (embd, embd) for name in ("q", "k", "v", "out")}
            matrices |= {f"{block}mlp.fc_in.weight": (embd, 4 * embd), f"{block}mlp.fc_out.weight": (4 * embd, embd)}
        return norms, matrices


class NeoXLayout(Layout):
    """gptneox and dolly-v2."""

    families = ("gptneox", "dolly-v2")
    prefixes = ("gpt_neox.", "embed_out.")
    pool_slack = (6, 16, 512)

    def hyperparameters(self, magic: str) -> tuple[str, ...]:
        return ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer", "n_rot", "par_res", "ftype")

    def header(self, values: Mapping[str, Any], magic: str, version: int | None) -> Header:
        if values["par_res"] not in (0, 1):
            raise UnfitHeader(f"par_res is {values['par_res']}, not 0 or 1")
        return replace(_GPTJ.header(values, magic, version), parallel_residual=bool(values["par_res"]))

    def tensors(self, header: Header) -> tuple[dict[str, Shape], dict[str, Shape]]:
        embd, vocab = header.n_embd, header.n_vocab
        norms: dict[str, Shape] = {f"gpt_neox.final_layer_norm.{part}": (embd,) for part in ("weight", "bias")}
        matrices: dict[str, Shape] = {"gpt_neox.embed_in.weight": (embd, vocab), "embed_out.weight": (embd, vocab)}
        for layer in range(header.n_layer):
            block = f"gpt_neox.layers.{layer}."
            for norm in ("input_layernorm", "post_attention_layernorm"):
                norms |= {f"{block}{norm}.weight": (embd,), f"{block}{norm}.bias": (embd,)}
            names = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
            for name, (columns, rows) in zip(names, projections(embd), strict=True):
                matrices[f"{block}{name}.weight"] = (columns, rows)
                norms[f"{block}{name}.bias"] = (rows,)
        return norms, matrices


class ReplitLayout(Layout):
    """replit, whose vocabulary has SentencePiece scores."""

    families: tuple[str, ...] = ("replit",)
    prefixes = ("transformer.",)
    pool_slack = (1, 6, 512)
    follows_context_length = False

    def hyperparameters(self, magic: str) -> tuple[str, ...]:
        return ("d_model", "max_seq_len", "n_heads", "n_layers", "n_vocab", "ftype")

    def scored(self, magic: str) -> bool:
        return True

    def header(self, values: Mapping[str, Any], magic: str, version: int | None) -> Header:
        check_positive(values, "d_model", "max_seq_len", "n_heads", "n_vocab")
        check_layers(values, "n_layers")
        header = Header(
            n_vocab=values["n_vocab"],
            n_embd=values["d_model"],
            n_head=values["n_heads"],
            n_layer=values["n_layers"],
            n_ctx=values["max_seq_len"],
            n_ff=4 * values["d_model"],
            n_head_kv=values["n_heads"],
            n_tokens=values["n_vocab"],
            matrix_type=matrix_type(values["ftype"]),
            fixed_context=not self.follows_context_length,
            alibi_bias_max=values.get("alibi_bias_max", 8.0),
            clip_qkv=values.get("clip_qkv", 0.0),
        )
        return check_sizes(header, int_arithmetic=not self.follows_context_length)

    def tensors(self, header: Header) -> tuple[dict[str, Shape], dict[str, Shape]]:
        embd, vocab = header.n_embd, header.n_vocab
        norms: dict[str, Shape] = {"transformer.norm_f.weight": (embd,)}
        matrices: dict[str, Shape] = {"transformer.wte.weight": (embd, vocab)}
        for layer in range(header.n_layer):
            block = f"transformer.blocks.{layer}."
            norms |= {f"{block}norm_1.weight": (embd,), f"{block}norm_2.weight": (embd,)}
            matrices |= {
                f"{block}attn.Wqkv.weight": (embd, 3 * embd),
                f"{block}attn.out_proj.weight": (embd, embd),
                f"{block}ffn.up_proj.weight": (embd, 4 * embd),
                f"{block}ffn.down_proj.weight": (4 * embd, embd),
            }
        return norms, matrices


class MPTLayout(ReplitLayout):
    """mpt: replit's layout with two more settings and byte-level tokens."""

    families = ("mpt",)
    float_keys = frozenset({"alibi_bias_max", "clip_qkv"})
    follows_context_length = True

    def hyperparameters(self, magic: str) -> tuple[str, ...]:
        return ("d_model", "max_seq_len", "n_heads", "n_layers", "n_vocab", "alibi_bias_max", "clip_qkv", "ftype")

    def scored(self, magic: str) -> bool:
        return False

    def header(self, values: Mapping[str, Any], magic: str, version: int | None) -> Header:
        for name in sorted(self.float_keys):
            if not 0 <= values[name] < math.inf:
                raise UnfitHeader(f"{name} is {values[name]}")
        return super().header(values, magic, version)

    def check_tokens(self, header: Header, tokens: Sequence[bytes]) -> None:
        for index, token in enumerate(tokens):
            if token.decode("utf-8", "ignore").encode() != token:
                raise UnfitHeader(f"token {index} {token[:40]!r} is not UTF-8, which crashes the loader")


class LlamaLayout(Layout):
    """llama 1 and 2. Only the tensors show whether keys and values are grouped (70B)."""

    families = ("llama",)
    formats = (("ggml", None), ("ggmf", 1), ("ggjt", 1), ("ggjt", 2), ("ggjt", 3))
    prefixes = ("tok_embeddings.", "norm.", "output.", "layers.")

    def hyperparameters(self, magic: str) -> tuple[str, ...]:
        return ("n_vocab", "n_embd", "n_mult", "n_head", "n_layer", "n_rot", "ftype")

    def scored(self, magic: str) -> bool:
        return True

    def header(self, values: Mapping[str, Any], magic: str, version: int | None) -> Header:
        check_positive(values, "n_vocab", "n_embd", "n_mult", "n_head")
        layers, embd, mult = values["n_layer"], values["n_embd"], values["n_mult"]
        if not (1 <= layers <= 32 or layers in (40, 60, 80)):
            raise UnfitHeader(f"n_layer is {layers}: the loader supports up to 32, 40, 60 and 80")
        if values["n_rot"] * values["n_head"] != embd:
            raise UnfitHeader(f"n_rot is {values['n_rot']}, not the head size {embd}/{values['n_head']}")
        if mult > 65536:
            raise UnfitHeader(f"n_mult is {mult}")
        header = Header(
            n_vocab=values["n_vocab"],
            n_embd=embd,
            n_head=values["n_head"],
            n_layer=layers,
            n_ctx=2048,
            n_ff=_feed_forward(embd, mult),
            n_mult=mult,
            n_head_kv=values["n_head"],
            n_tokens=values["n_vocab"],
            n_rot=values["n_rot"],
            epsilon=5e-6,  # ctransformers' value, between LLaMA's 1e-6 and LLaMA 2's 1e-5
            rms_norm=True,
            fixed_context=False,
            old_blocks=old_blocks(values["ftype"], magic, version),
        )
        return check_sizes(header, int_arithmetic=True)

    def settled(self, header: Header, tokens: Sequence[bytes], tensors: Mapping[str, TensorInfo]) -> Header:
        keys = tensors.get("layers.0.attention.wk.weight")
        if keys is None or header.n_head % 8 or keys.shape != (header.n_embd, header.n_embd // 8):
            return header
        grouped = replace(
            header, n_head_kv=header.n_head // 8, epsilon=1e-5
        )  # only LLaMA 2 has grouped-query attention
        if header.n_layer != 80:
            return grouped
        wider = int(np.float32(1.3) * np.float32(_feed_forward(header.n_embd, 1)))
        return replace(grouped, n_ff=-(-wider // header.n_mult) * header.n_mult)

    def tensors(self, header: Header) -> tuple[dict[str, Shape], dict[str, Shape]]:
        embd, vocab, ff = header.n_embd, header.n_vocab, header.n_ff
        kv = embd // header.n_head * header.n_head_kv
        norms: dict[str, Shape] = {"norm.weight": (embd,)}
        matrices: dict[str, Shape] = {"tok_embeddings.weight": (embd, vocab), "output.weight": (embd, vocab)}
        for layer in range(header.n_layer):
            block = f"layers.{layer}."
            norms |= {f"{block}attention_norm.weight": (embd,), f"{block}ffn_norm.weight": (embd,)}
            matrices |= {
                f"{block}attention.wq.weight": (embd, embd),
                f"{block}attention.wk.weight": (embd, kv),
                f"{block}attention.wv.weight": (embd, kv),
                f"{block}attention.wo.weight": (embd, embd),
                f"{block}feed_forward.w1.weight": (embd, ff),
                f"{block}feed_forward.w2.weight": (ff, embd),
                f"{block}feed_forward.w3.weight": (embd, ff),
            }
        return norms, matrices


def _feed_forward(embd: int, mult: int) -> int:
    """Return the feed-forward width: two thirds of four times the width, rounded up to a multiple of `mult`."""
    return -(-(2 * (4 * embd) // 3) // mult) * mult


class FalconLayout(Layout):
    """falcon."""

    families = ("falcon",)
    formats = (("ggml", None), ("ggmf", 1), ("ggjt", 1), ("ggjt", 2), ("ggjt", 3), ("ggcc", 10))
    prefixes = ("transformer.", "lm_head.")
    kv_bytes = 6  # F32, keys once and values twice, for two tensors

    def hyperparameters(self, magic: str) -> tuple[str, ...]:
        names = ("n_vocab", "n_embd", "n_head", "n_head_kv", "n_layer", "falcon_type", "ftype")
        return (*names, "n_bpe_merges") if magic == "ggcc" else names

    def scored(self, magic: str) -> bool:
        return magic != "ggml"

    def header(self, values: Mapping[str, Any], magic: str, version: int | None) -> Header:
        check_positive(values, "n_vocab", "n_embd", "n_head", "n_head_kv")
        check_layers(values)
        layers, kind = values["n_layer"], values["falcon_type"]
        if kind not in (7, 40) or {32: 7, 60: 40}.get(layers, kind) != kind:
            raise UnfitHeader(f"falcon_type is {kind} with {layers} layers: 7 (32 layers) and 40 (60) are supported")
        if values["n_vocab"] < 12:
            raise UnfitHeader(f"{values['n_vocab']} tokens: at least Falcon's 12 special tokens are required")
        if values["n_head_kv"] > values["n_head"] or values["n_head"] % values["n_head_kv"]:
            raise UnfitHeader(f"n_head_kv is {values['n_head_kv']} with {values['n_head']} heads")
        ftype = values["ftype"]
        if magic == "ggml" and ftype // 1000 in (2, 3, 7):  # the loader reads the quantization version as the type
            raise UnfitHeader(f"ftype {ftype}, which the loader misreads as quantized")
        header = Header(
            n_vocab=values["n_vocab"],
            n_embd=values["n_embd"],
            n_head=values["n_head"],
            n_layer=layers,
            n_ctx=2048,
            n_ff=4 * values["n_embd"],
            n_head_kv=values["n_head_kv"],
            n_tokens=values["n_vocab"],
            n_rot=values["n_embd"] // values["n_head"],
            fixed_context=False,
            n_rows=values["n_vocab"],
            drops_pad=magic == "ggcc" or (magic, version) == ("ggjt", 3),
            falcon_40b=kind == 40,
            old_blocks=old_blocks(ftype % 1000 if magic == "ggml" else ftype, magic, version),
        )
        return check_sizes(header, int_arithmetic=True)

    def settled(self, header: Header, tokens: Sequence[bytes], tensors: Mapping[str, TensorInfo]) -> Header:
        if not (header.drops_pad and header.n_tokens == 65025 and tokens[65024] == b"[PAD]"):
            return header
        rows = (
            65025 if header.n_embd in (4544, 8192) else 65024
        )  # the loader skips the last row in these two sizes only
        return replace(header, n_vocab=65024, n_rows=rows)

    def tensors(self, header: Header) -> tuple[dict[str, Shape], dict[str, Shape]]:
        embd, vocab = header.n_embd, header.n_rows
        norms: dict[str, Shape] = {"transformer.ln_f.weight": (embd,), "transformer.ln_f.bias": (embd,)}
        matrices: dict[str, Shape] = {"transformer.word_embeddings.weight": (embd, vocab)}
        matrices["lm_head.weight"] = (embd, vocab)
        qkv = embd // header.n_head * (header.n_head + 2 * header.n_head_kv)
        for layer in range(header.n_layer):
            block = f"transformer.h.{layer}."
            for norm in ("ln_mlp", "ln_attn") if header.falcon_40b else ("input_layernorm",):
                norms |= {f"{block}{norm}.weight": (embd,), f"{block}{norm}.bias": (embd,)}
            matrices |= {
                f"{block}self_attention.query_key_value.weight": (embd, qkv),
                f"{block}self_attention.dense.weight": (embd, embd),
                f"{block}mlp.dense_h_to_4h.weight": (embd, 4 * embd),
                f"{block}mlp.dense_4h_to_h.weight": (4 * embd, embd),
            }
        return norms, matrices


_GPT2, _GPTJ, _NEOX = GPT2Layout(), GPTJLayout(), NeoXLayout()
LAYOUTS: tuple[Layout, ...] = (_GPT2, _GPTJ, _NEOX, MPTLayout(), ReplitLayout(), LlamaLayout(), FalconLayout())


def layout_of(family: str) -> Layout:
    """Return the layout of a family's files."""
    return next(layout for layout in LAYOUTS if family in layout.families)


def family_of(layout: Layout, tokens: Sequence[bytes]) -> str | None:
    """Return the family of `layout` that the vocabulary proves, or None."""
    if len(layout.families) == 1:
        return layout.families[0]
    if layout is _NEOX:
        return "dolly-v2" if b"### End" in tokens else "gptneox"
    if b"<fim_prefix>" in tokens or b"<fim-prefix>" in tokens:
        return "starcoder"
    return "gpt2" if len(tokens) == 50257 and tokens[-1] == b"<|endoftext|>" else None
