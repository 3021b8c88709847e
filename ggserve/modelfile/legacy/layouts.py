"""The model families of legacy GGML files: what each one's header says, and which tensors its loader asks for.

Written after the loaders of ctransformers 0.2.27. A `Layout` is one order of header, vocabulary and tensors; families
that differ in their tokenizer only (gpt2 and starcoder, gptneox and dolly-v2) share one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ggserve.errors import ModelFileError
from ggserve.modelfile.gguf import TENSOR_TYPES, TensorInfo

FAMILIES = ("dolly-v2", "falcon", "gpt2", "gptj", "gptneox", "llama", "mpt", "replit", "starcoder")

_ALIASES = {"gptbigcode": "starcoder", "dolly": "dolly-v2"}

# ftype, as the files number it: the type of the matrices. 4 (Q4_1 with some F16) is one that no loader takes.
_MATRIX_TYPE = {0: 0, 1: 1, 2: 2, 3: 3, 7: 8, 8: 6, 9: 7, 10: 10, 11: 11, 12: 12, 13: 13, 14: 14}
_F32, _F16 = 0, 1
_Q4_0, _Q4_1, _Q8_0 = 2, 3, 8
_QUANTIZATION_VERSION = 2  # since May 2023; older blocks have other layouts under the same type numbers
_MAX_INT = 2**31 - 1
_MAX_LAYERS = 64  # the graph's pool has room for 4096 nodes, some 60 a layer
_TENSOR_BYTES = 320  # one tensor's bookkeeping in the loader's pool

Shape = tuple[int, ...]
Format = tuple[str, int | None]


class UnfitHeader(Exception):
    """What a file holds does not fit together; `at` is the byte, where it is not where the reader stands."""

    def __init__(self, message: str, at: int | None = None) -> None:
        super().__init__(message)
        self.at = at


def named_family(model_type: str) -> str:
    """The family that a MODEL_TYPE means, in any spelling that ctransformers takes. ModelFileError if none."""
    spelled = "".join(filter(str.isalnum, model_type.lower()))
    known = {"".join(filter(str.isalnum, family)): family for family in FAMILIES} | _ALIASES
    if spelled not in known:
        raise ModelFileError(f"MODEL_TYPE={model_type}: not a family of legacy files; there are {', '.join(FAMILIES)}")
    return known[spelled]


def row_length(shape: Shape, kind: int) -> int:
    """Bytes of a tensor of this shape and type."""
    layout = TENSOR_TYPES[kind]
    return shape[0] // layout.block * layout.nbytes * math.prod(shape[1:])


@dataclass(frozen=True)
class Header:
    """A file's hyperparameters, checked, under the same names for all families."""

    n_vocab: int
    n_embd: int
    n_head: int
    n_layer: int
    n_ctx: int  # tokens: what the file says, else what the family was trained on
    n_ff: int
    n_head_kv: int
    fixed_context: bool  # the loader makes the KV cache as long as the file says
    matrix_type: int | None = None  # of all matrices; None: each has its own
    n_tokens: int = 0  # in the file's vocabulary
    n_rows: int = 0  # of the embedding, in the file
    n_rot: int | None = None
    epsilon: float = 1e-5  # of the normalizations, which no file tells
    rms_norm: bool = False
    parallel_residual: bool | None = None  # gptneox
    alibi_bias_max: float | None = None  # mpt, replit
    clip_qkv: float = 0.0  # mpt; 0: none
    n_mult: int = 1  # llama: what the feed-forward width is rounded up to
    falcon_40b: bool = False
    drops_pad: bool = False  # falcon: the loader drops a 65025th token, [PAD]
    old_blocks: frozenset[int] = frozenset()  # types whose blocks the loader would misread

    def metadata(self) -> dict[str, Any]:
        """The numbers under GGUF's names."""
        numbers: dict[str, Any] = {
            "context_length": self.n_ctx,
            "embedding_length": self.n_embd,
            "feed_forward_length": self.n_ff,
            "block_count": self.n_layer,
            "attention.head_count": self.n_head,
            "attention.head_count_kv": self.n_head_kv,
            "vocab_size": self.n_vocab,
            "attention.layer_norm_rms_epsilon" if self.rms_norm else "attention.layer_norm_epsilon": self.epsilon,
        }
        if self.n_rot is not None:
            numbers["rope.dimension_count"] = self.n_rot
        if self.parallel_residual is not None:
            numbers["use_parallel_residual"] = self.parallel_residual
        if self.alibi_bias_max is not None:
            numbers["attention.max_alibi_bias"] = self.alibi_bias_max
        if self.clip_qkv:
            numbers["attention.clamp_kqv"] = self.clip_qkv
        return numbers


class Layout:
    """One order of header, vocabulary and tensors. Unless a subclass says otherwise, of magic `ggml`."""

    families: tuple[str, ...]
    formats: tuple[Format, ...] = (("ggml", None),)
    float_keys: frozenset[str] = frozenset()
    counts_tokens = False  # the vocabulary starts with its size
    prefixes: tuple[str, ...]  # that tensors' names start with
    kv_bytes = 2  # an element of the KV cache
    pool_slack = (6, 12, 512)  # bytes for bookkeeping: (a + b * layers) * c

    def hyperparameters(self, magic: str) -> tuple[str, ...]:
        """Their names, in the file's order."""
        raise NotImplementedError

    def header(self, values: Mapping[str, Any], magic: str, version: int | None) -> Header:
        """The header with its sizes checked. Raises UnfitHeader."""
        raise NotImplementedError

    def tensors(self, header: Header) -> tuple[dict[str, Shape], dict[str, Shape]]:
        """Names and shapes of those that are F32 always, and of the matrices."""
        raise NotImplementedError

    def scored(self, magic: str) -> bool:
        """Whether a score follows each token."""
        return False

    def optional(self) -> frozenset[str]:
        """Tensors that the loader can do without."""
        return frozenset()

    def knows(self, name: str) -> bool:
        """Whether a tensor may be one of this layout's, by its name."""
        return name.startswith(self.prefixes)

    def check_tokens(self, header: Header, tokens: Sequence[bytes]) -> None:
        """Raises UnfitHeader where a token would stop the loader."""

    def settled(self, header: Header, tokens: Sequence[bytes], tensors: Mapping[str, TensorInfo]) -> Header:
        """The header, with what only the rest of the file tells."""
        return header

    def check_tensors(self, header: Header, tensors: Mapping[str, TensorInfo]) -> None:
        """Raises UnfitHeader unless `tensors` are exactly those that the loader asks for."""
        norms, matrices = self.tensors(header)
        expected = norms | matrices
        for name, shape in expected.items():
            tensor = tensors.get(name)
            if tensor is None:
                if name in self.optional():
                    continue
                raise UnfitHeader(f"tensor {name!r} is missing")
            if tensor.shape != shape:
                raise UnfitHeader(f"tensor {name!r} of shape {list(tensor.shape)}, not {list(shape)}", tensor.offset)
            kinds = _kinds(header) if name in matrices else {_F32}
            if tensor.type not in kinds:
                wanted = " or ".join(TENSOR_TYPES[kind].name for kind in sorted(kinds))
                raise UnfitHeader(f"tensor {name!r} of type {tensor.type_name}, not {wanted}", tensor.offset)
        for name, tensor in tensors.items():
            if name not in expected:
                raise UnfitHeader(f"tensor {name!r} is none of this family's", tensor.offset)
        if header.matrix_type is not None:
            self._check_pool(header, header.matrix_type)

    def _check_pool(self, header: Header, kind: int) -> None:
        """The loader adds up its pool in single precision: enough must be left of the bookkeeping's room."""
        norms, matrices = self.tensors(header)
        size = sum(row_length(shape, _F32) for shape in norms.values())
        size += sum(row_length(shape, kind) for shape in matrices.values()) + kv_cache_bytes(self, header)
        base, per_layer, each = self.pool_slack
        room = (base + per_layer * header.n_layer) * each
        needed = (len(norms) + len(matrices) + 2) * (_TENSOR_BYTES + 16)
        if needed + 16 * float(np.spacing(np.float32(size))) > room:
            raise UnfitHeader(f"{header.n_layer} layers of {size} bytes are too large for the loader's arithmetic")


def _kinds(header: Header) -> set[int]:
    if header.matrix_type is not None:
        return {header.matrix_type}
    return set(_MATRIX_TYPE.values()) - header.old_blocks


def kv_cache_bytes(layout: Layout, header: Header) -> int:
    """Bytes of keys and values for the whole context."""
    width = header.n_embd // header.n_head * header.n_head_kv
    return 2 * layout.kv_bytes * header.n_ctx * header.n_layer * width


def _positive(values: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if values[name] < 1:
            raise UnfitHeader(f"{name} is {values[name]}")


def _check_sizes(header: Header, *, int_arithmetic: bool) -> Header:
    """Divisions without remainder, no number that overflows where the loader multiplies."""
    if header.n_head == 1:
        raise UnfitHeader("n_head is 1, which kills the process at the first prompt")
    if header.n_embd % header.n_head:
        raise UnfitHeader(f"{header.n_head} heads do not divide the width {header.n_embd}")
    head = header.n_embd // header.n_head
    if header.n_rot is not None and not (2 <= header.n_rot <= head and header.n_rot % 2 == 0):
        raise UnfitHeader(f"n_rot is {header.n_rot}, for heads of {head} dimensions")
    products = [header.n_embd * header.n_vocab, 4 * header.n_embd * header.n_embd, header.n_embd * header.n_ctx]
    if int_arithmetic:
        products.append(header.n_ctx * header.n_layer * header.n_embd)
    if max(products) > _MAX_INT:
        raise UnfitHeader(f"width {header.n_embd}, {header.n_vocab} tokens, context {header.n_ctx}: too large")
    return header


def _projections(width: int) -> list[tuple[int, int]]:
    """The matrices of a block: into attention (queries, keys and values in one) and out of it, up and down."""
    return [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]


def _layers(values: Mapping[str, Any], name: str = "n_layer", most: int = _MAX_LAYERS) -> None:
    if not 1 <= values[name] <= most:
        raise UnfitHeader(f"{name} is {values[name]}; 1 to {most} fit")


def _matrix_type(ftype: int) -> int:
    """The matrices' type that `ftype` says. UnfitHeader if it is none, or of an older layout."""
    version, kind = divmod(ftype, 1000) if ftype >= 0 else (0, ftype)
    if kind not in _MATRIX_TYPE:
        raise UnfitHeader(f"ftype {ftype} is none that ctransformers takes")
    found = _MATRIX_TYPE[kind]
    if found not in (_F32, _F16) and version != _QUANTIZATION_VERSION:
        raise UnfitHeader(
            f"quantized ({TENSOR_TYPES[found].name}) in the layout of version {version}, and only version "
            f"{_QUANTIZATION_VERSION} is read today: get a newer file"
        )
    return found


def _old_blocks(ftype: int, magic: str, version: int | None) -> frozenset[int]:
    """For formats whose tensors each have a type: the types whose blocks changed since that version."""
    if ftype not in _MATRIX_TYPE and ftype != 4:
        raise UnfitHeader(f"ftype {ftype} is unknown")
    if magic == "ggcc" or (magic, version) == ("ggjt", 3):
        return frozenset()
    plain = frozenset({_F32, _F16})
    old = frozenset({_Q4_0, _Q4_1, _Q8_0}) if (magic, version) == ("ggjt", 2) else frozenset(TENSOR_TYPES) - plain
    if _MATRIX_TYPE.get(ftype, _Q4_1) in old:
        name = magic if version is None else f"{magic} v{version}"
        raise UnfitHeader(f"quantized in the old layout of {name}, which is no longer read: get a newer file")
    return old


class GPT2Layout(Layout):
    """gpt2, and starcoder with its multi-query heads written out as ordinary ones."""

    families = ("gpt2", "starcoder")
    counts_tokens = True
    prefixes = ("model/",)
    kv_bytes = 4

    def hyperparameters(self, magic: str) -> tuple[str, ...]:
        return ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer", "ftype")

    def header(self, values: Mapping[str, Any], magic: str, version: int | None) -> Header:
        _positive(values, "n_vocab", "n_ctx", "n_embd", "n_head")
        _layers(values)
        sizes = {key: values[key] for key in ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")}
        header = Header(
            **sizes,
            n_head_kv=values["n_head"],
            n_ff=4 * values["n_embd"],
            n_tokens=values["n_vocab"],
            matrix_type=_matrix_type(values["ftype"]),
            fixed_context=True,
        )
        return _check_sizes(header, int_arithmetic=True)

    def optional(self) -> frozenset[str]:
        return frozenset({"model/lm_head"})  # then the output shares model/wte

    def tensors(self, header: Header) -> tuple[dict[str, Shape], dict[str, Shape]]:
        embd, vocab = header.n_embd, header.n_vocab
        norms: dict[str, Shape] = {"model/ln_f/g": (embd,), "model/ln_f/b": (embd,), "model/wpe": (embd, header.n_ctx)}
        matrices: dict[str, Shape] = {"model/wte": (embd, vocab), "model/lm_head": (embd, vocab)}
        for layer in range(header.n_layer):
            block = f"model/h{layer}/"
            norms |= {f"{block}{norm}/{part}": (embd,) for norm in ("ln_1", "ln_2") for part in "gb"}
            names = ("attn/c_attn", "attn/c_proj", "mlp/c_fc", "mlp/c_proj")
            for name, (columns, rows) in zip(names, _projections(embd), strict=True):
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
        return _check_sizes(replace(header, n_rot=values["n_rot"]), int_arithmetic=True)

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
            raise UnfitHeader(f"par_res is {values['par_res']}, neither 0 nor 1")
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
            for name, (columns, rows) in zip(names, _projections(embd), strict=True):
                matrices[f"{block}{name}.weight"] = (columns, rows)
                norms[f"{block}{name}.bias"] = (rows,)
        return norms, matrices


class ReplitLayout(Layout):
    """replit; its vocabulary has SentencePiece scores."""

    families: tuple[str, ...] = ("replit",)
    prefixes = ("transformer.",)
    pool_slack = (1, 6, 512)
    follows_context_length = False

    def hyperparameters(self, magic: str) -> tuple[str, ...]:
        return ("d_model", "max_seq_len", "n_heads", "n_layers", "n_vocab", "ftype")

    def scored(self, magic: str) -> bool:
        return True

    def header(self, values: Mapping[str, Any], magic: str, version: int | None) -> Header:
        _positive(values, "d_model", "max_seq_len", "n_heads", "n_vocab")
        _layers(values, "n_layers")
        header = Header(
            n_vocab=values["n_vocab"],
            n_embd=values["d_model"],
            n_head=values["n_heads"],
            n_layer=values["n_layers"],
            n_ctx=values["max_seq_len"],
            n_ff=4 * values["d_model"],
            n_head_kv=values["n_heads"],
            n_tokens=values["n_vocab"],
            matrix_type=_matrix_type(values["ftype"]),
            fixed_context=not self.follows_context_length,
            alibi_bias_max=values.get("alibi_bias_max", 8.0),
            clip_qkv=values.get("clip_qkv", 0.0),
        )
        return _check_sizes(header, int_arithmetic=not self.follows_context_length)

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
    """mpt: as replit, with two settings more and byte-level tokens."""

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
                raise UnfitHeader(f"token {index} {token[:40]!r} is not UTF-8, which kills the loader")


class LlamaLayout(Layout):
    """llama 1 and 2; the file does not say whether keys and values are grouped (70B), its tensors do."""

    families = ("llama",)
    formats = (("ggml", None), ("ggmf", 1), ("ggjt", 1), ("ggjt", 2), ("ggjt", 3))
    prefixes = ("tok_embeddings.", "norm.", "output.", "layers.")

    def hyperparameters(self, magic: str) -> tuple[str, ...]:
        return ("n_vocab", "n_embd", "n_mult", "n_head", "n_layer", "n_rot", "ftype")

    def scored(self, magic: str) -> bool:
        return True

    def header(self, values: Mapping[str, Any], magic: str, version: int | None) -> Header:
        _positive(values, "n_vocab", "n_embd", "n_mult", "n_head")
        layers, embd, mult = values["n_layer"], values["n_embd"], values["n_mult"]
        if not (1 <= layers <= 32 or layers in (40, 60, 80)):
            raise UnfitHeader(f"n_layer is {layers}: the loader knows up to 32, 40, 60 and 80")
        if values["n_rot"] * values["n_head"] != embd:
            raise UnfitHeader(f"n_rot is {values['n_rot']}, not the width over the heads, {embd}/{values['n_head']}")
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
            epsilon=5e-6,  # as ctransformers has it, between LLaMA's 1e-6 and LLaMA 2's 1e-5
            rms_norm=True,
            fixed_context=False,
            old_blocks=_old_blocks(values["ftype"], magic, version),
        )
        return _check_sizes(header, int_arithmetic=True)

    def settled(self, header: Header, tokens: Sequence[bytes], tensors: Mapping[str, TensorInfo]) -> Header:
        keys = tensors.get("layers.0.attention.wk.weight")
        if keys is None or header.n_head % 8 or keys.shape != (header.n_embd, header.n_embd // 8):
            return header
        grouped = replace(header, n_head_kv=header.n_head // 8, epsilon=1e-5)  # only LLaMA 2 has groups
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
    """Two thirds of four times the width, rounded up to a multiple of `mult`."""
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
        _positive(values, "n_vocab", "n_embd", "n_head", "n_head_kv")
        _layers(values)
        layers, kind = values["n_layer"], values["falcon_type"]
        if kind not in (7, 40) or {32: 7, 60: 40}.get(layers, kind) != kind:
            raise UnfitHeader(f"falcon_type is {kind} with {layers} layers: 7 (32 layers) and 40 (60) are known")
        if values["n_vocab"] < 12:
            raise UnfitHeader(f"{values['n_vocab']} tokens: the first 12 are Falcon's special ones")
        if values["n_head_kv"] > values["n_head"] or values["n_head"] % values["n_head_kv"]:
            raise UnfitHeader(f"n_head_kv is {values['n_head_kv']}, for {values['n_head']} heads")
        ftype = values["ftype"]
        if magic == "ggml" and ftype // 1000 in (2, 3, 7):  # it takes the quantization version for the type
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
            old_blocks=_old_blocks(ftype % 1000 if magic == "ggml" else ftype, magic, version),
        )
        return _check_sizes(header, int_arithmetic=True)

    def settled(self, header: Header, tokens: Sequence[bytes], tensors: Mapping[str, TensorInfo]) -> Header:
        if not (header.drops_pad and header.n_tokens == 65025 and tokens[65024] == b"[PAD]"):
            return header
        rows = 65025 if header.n_embd in (4544, 8192) else 65024  # it skips the last row in these two sizes only
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
    """The layout that a family's files have."""
    return next(layout for layout in LAYOUTS if family in layout.families)


def family_of(layout: Layout, tokens: Sequence[bytes]) -> str | None:
    """The family among those of `layout` that the vocabulary proves; None if it proves none."""
    if len(layout.families) == 1:
        return layout.families[0]
    if layout is _NEOX:
        return "dolly-v2" if b"### End" in tokens else "gptneox"
    if b"<fim_prefix>" in tokens or b"<fim-prefix>" in tokens:
        return "starcoder"
    return "gpt2" if len(tokens) == 50257 and tokens[-1] == b"<|endoftext|>" else None
