"""Plan the GGUF form of a legacy file: llama.cpp's tensor names, settings, token spelling and row order.

Weights do not change. If llama.cpp needs rows in another order, whole rows move, so quantized blocks stay intact.
"""

import re
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggserve.errors import ModelFileError
from ggserve.modelfile.accepts.llama_cpp import llama_cpp_objection
from ggserve.modelfile.gguf import opened
from ggserve.modelfile.gguf_writer import NewTensor, Plan, field_of, origin, plan_gguf
from ggserve.modelfile.legacy.ggml import GGMLFile
from ggserve.modelfile.legacy.layout import Header, row_length
from ggserve.modelfile.tensor_types import F32
from ggserve.modelfile.token_spelling import TokenType, to_alphabet

ARCHITECTURES = {
    "llama": "llama",
    "falcon": "falcon",
    "mpt": "mpt",
    "replit": "mpt",
    "gpt2": "gpt2",
    "starcoder": "starcoder",
    "gptneox": "gptneox",
    "dolly-v2": "gptneox",
    "gptj": "phi2",
}
"""llama.cpp's architecture for each family. GPT-J has none, but its graph is phi2's without some biases if the rotated
dimensions are ordered in halves instead of pairs."""

_NAMES = {
    "tok_embeddings": "token_embd",
    "transformer.word_embeddings": "token_embd",
    "transformer.wte": "token_embd",
    "gpt_neox.embed_in": "token_embd",
    "model.wte": "token_embd",
    "model.wpe": "position_embd",
    "norm": "output_norm",
    "transformer.ln_f": "output_norm",
    "transformer.norm_f": "output_norm",
    "gpt_neox.final_layer_norm": "output_norm",
    "model.ln_f": "output_norm",
    "lm_head": "output",
    "model.lm_head": "output",
    "embed_out": "output",
    "output": "output",
}
_BLOCK = re.compile(r"(?:layers|transformer\.h|transformer\.blocks|gpt_neox\.layers|model\.h)\.?(\d+)\.(.+)")
_BLOCK_NAMES = {
    "attention_norm": "attn_norm",
    "input_layernorm": "attn_norm",
    "ln_mlp": "attn_norm",  # falcon 40B: llama.cpp's name for the norm before the feed-forward
    "ln_attn": "attn_norm_2",
    "ln_1": "attn_norm",
    "norm_1": "attn_norm",
    "ffn_norm": "ffn_norm",
    "post_attention_layernorm": "ffn_norm",
    "ln_2": "ffn_norm",
    "norm_2": "ffn_norm",
    "attention.wq": "attn_q",
    "attn.q_proj": "attn_q",
    "attention.wk": "attn_k",
    "attn.k_proj": "attn_k",
    "attention.wv": "attn_v",
    "attn.v_proj": "attn_v",
    "self_attention.query_key_value": "attn_qkv",
    "attention.query_key_value": "attn_qkv",
    "attn.Wqkv": "attn_qkv",
    "attn.c_attn": "attn_qkv",
    "attention.wo": "attn_output",
    "self_attention.dense": "attn_output",
    "attention.dense": "attn_output",
    "attn.out_proj": "attn_output",
    "attn.c_proj": "attn_output",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "mlp.dense_4h_to_h": "ffn_down",
    "ffn.down_proj": "ffn_down",
    "mlp.c_proj": "ffn_down",
    "mlp.fc_out": "ffn_down",
    "feed_forward.w3": "ffn_up",
    "mlp.dense_h_to_4h": "ffn_up",
    "ffn.up_proj": "ffn_up",
    "mlp.c_fc": "ffn_up",
    "mlp.fc_in": "ffn_up",
}
_PARTS = {"weight": "weight", "g": "weight", "w": "weight", "bias": "bias", "b": "bias"}
_TOKENIZER = "tokenizer.ggml."
_PRE_TOKENIZERS = {"gpt-neox": "mpt"}  # MPT has GPT-NeoX's tokenizer
SOURCE_DIGEST = "ggserve.source_digest"
_FORM = b"1"  # increment when the conversion changes
_SAMPLES, _SAMPLE = 64, 4096  # number of places and bytes per place that identify a file's weights


def plan_conversion(file: GGMLFile, chat_template: str | None = None) -> Plan:
    """Return the plan for the GGUF form of a legacy file, with a chat template (Jinja2) if given. Raises ModelFileError
    if llama.cpp cannot run the model exactly."""
    shared = file.family == "starcoder" and _shares_keys(file)
    tensors = list(_tensors(file, shared))
    fields = origin(file.path, file.size)
    fields |= {key: field_of(value) for key, value in _metadata(file, 1 if shared else file.header.n_head_kv).items()}
    fields[SOURCE_DIGEST] = field_of(source_digest(file, chat_template))
    if chat_template is not None:
        fields["tokenizer.chat_template"] = field_of(chat_template)
    plan = plan_gguf(file.path, fields, tensors)
    objection = conversion_objection(file) or llama_cpp_objection(plan.planned)
    if objection is not None:
        raise ModelFileError(f"{file.path.name}: llama.cpp cannot run this model: {objection}")
    return plan


def source_digest(file: GGMLFile, chat_template: str | None) -> str:
    """Return a digest of the input of a conversion. Inputs that differ in more than a few weights have different
    digests."""
    digest = blake2b(f"{file.family} {file.size} {chat_template or ''}".encode(), key=_FORM, digest_size=16)
    start = min(tensor.offset for tensor in file.tensors.values())
    with opened(file.path) as reader:
        digest.update(reader.read(start))
        for offset in np.linspace(start, max(start, file.size - _SAMPLE), _SAMPLES).astype(np.int64).tolist():
            reader.seek(offset)
            digest.update(reader.read(_SAMPLE))
    return digest.hexdigest()


def conversion_objection(file: GGMLFile) -> str | None:
    """Return None if the file can be converted for llama.cpp, else the reason. Reads no tensor."""
    if file.get(_TOKENIZER + "eos_token_id") is None:
        return "its vocabulary has no end-of-text token, and llama.cpp would use another token"
    return None


def _metadata(file: GGMLFile, n_head_kv: int) -> dict[str, Any]:
    arch = ARCHITECTURES[file.family]
    found: dict[str, Any] = {"general.architecture": arch, "general.name": file.path.stem}
    found |= {"general.quantization_version": 2}
    prefix = file.family + "."
    for key in file.metadata_keys():
        if key.startswith(prefix):
            found[f"{arch}.{key.removeprefix(prefix)}"] = file.get(key)
    found[f"{arch}.attention.head_count_kv"] = n_head_kv
    found |= _tokenizer(file)
    return found


def _tokenizer(file: GGMLFile) -> dict[str, Any]:
    """Return `tokenizer.ggml.*` in llama.cpp's form."""
    found = {key: file.get(key) for key in file.metadata_keys() if key.startswith(_TOKENIZER)}
    model = found[_TOKENIZER + "model"]
    found[_TOKENIZER + "add_bos_token"] = model == "llama"
    if model == "gpt2":
        kinds = found[_TOKENIZER + "token_type"].tolist()
        texts = zip(found[_TOKENIZER + "tokens"], kinds, strict=True)
        found[_TOKENIZER + "tokens"] = [to_alphabet(t) if kind == TokenType.NORMAL else t for t, kind in texts]
        found[_TOKENIZER + "pre"] = _PRE_TOKENIZERS.get(found[_TOKENIZER + "pre"], found[_TOKENIZER + "pre"])
    if model == "replit":  # llama.cpp's unigram, without T5's changes to spaces
        found[_TOKENIZER + "model"] = "t5"
        found[_TOKENIZER + "add_space_prefix"] = found[_TOKENIZER + "remove_extra_whitespaces"] = False
    return found


def _tensors(file: GGMLFile, shared: bool) -> Iterator[NewTensor]:
    header = file.header
    for source in file.tensors.values():
        name = _name(source.name)
        rows = _rows(file.family, header, name, shared)
        if rows is None:
            yield NewTensor(name, source.shape, source.type, source.nbytes, source)
            continue
        shape = (*source.shape[:-1], len(rows))
        yield NewTensor(name, shape, source.type, row_length(shape, source.type), source, rows)
    if file.family == "gptj":
        shape = (header.n_embd,)
        for layer in range(header.n_layer):
            yield NewTensor(f"blk.{layer}.attn_output.bias", shape, F32, row_length(shape, F32), None)


def _name(legacy: str) -> str:
    stem, _, part = legacy.replace("/", ".").rpartition(".")
    if part not in _PARTS:  # GPT-2's embeddings have no such suffix
        stem, part = f"{stem}.{part}", "weight"
    if block := _BLOCK.fullmatch(stem):
        return f"blk.{block[1]}.{_BLOCK_NAMES[block[2]]}.{_PARTS[part]}"
    return f"{_NAMES[stem]}.{_PARTS[part]}"


def _rows(family: str, header: Header, name: str, shared: bool) -> NDArray[np.intp] | None:
    """Return the legacy tensor's rows for the new tensor, in order; None: all rows in place."""
    stem = name.split(".")[-2]
    heads, width = header.n_head, header.n_embd // header.n_head
    if family in ("gptneox", "dolly-v2") and stem == "attn_qkv":
        # The file has queries, keys and values head by head; llama.cpp has all queries, all keys, all values.
        parts = np.arange(3 * header.n_embd).reshape(heads, 3, width)
        return np.concatenate([parts[:, part].ravel() for part in range(3)])
    if family == "gptj" and stem in ("attn_q", "attn_k") and header.n_rot:
        # Dimensions 2i and 2i + 1 are rotated together; in phi2, i and i + n_rot / 2.
        turned = np.arange(header.n_rot).reshape(-1, 2).T.ravel()
        order = np.concatenate([turned, np.arange(header.n_rot, width)])
        return np.concatenate([head * width + order for head in range(heads)])
    if shared and stem == "attn_qkv":
        first = np.arange(header.n_embd + width)  # all queries, the first head's keys
        return np.concatenate([first, 2 * header.n_embd + np.arange(width)])
    if header.n_rows > header.n_vocab and stem in ("token_embd", "output"):
        return np.arange(header.n_vocab)  # falcon: the last row belongs to no token
    return None


def _shares_keys(file: GGMLFile) -> bool:
    """Return whether all heads of every layer have the same keys and values: multi-query attention, written out by the
    converters of 2023. Keeping one copy divides the KV cache by the number of heads."""
    embd, heads = file.header.n_embd, file.header.n_head
    weights = np.memmap(file.path, np.uint8, "r")
    for name, tensor in file.tensors.items():
        if "c_attn" in name:
            rows = weights[tensor.offset : tensor.offset + tensor.nbytes].reshape(3 * embd, -1)
            for part in (rows[embd : 2 * embd], rows[2 * embd :]):
                copies = part.reshape(heads, -1)
                if not all(np.array_equal(copy, copies[0]) for copy in copies[1:]):
                    return False
    return True
