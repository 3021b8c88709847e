"""Tiny models with random weights, one for each architecture that a test wants, written with the gguf package."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, LlamaFileType, TokenType
from gguf.quants import quantize

from ggserve.modelfile.token_spelling import ALPHABET

CONTEXT = 512
LAYERS = 2
HEADS = 4
KV_HEADS = 2
WIDTH = 256  # one block of the K-quants
HEAD = WIDTH // HEADS
INNER = 256

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message.reasoning_content %}<think>\n{{ message.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


class TinyModel:
    """Collects the metadata and tensors of a model, then writes the file."""

    def __init__(self, path: Path, architecture: str, kind: GGMLQuantizationType = GGMLQuantizationType.F32) -> None:
        self.path = path
        self.architecture = architecture
        self.kind = kind
        self.writer = gguf.GGUFWriter(path, architecture)
        self.writer.add_name("tiny")
        self.writer.add_context_length(CONTEXT)
        self.writer.add_embedding_length(WIDTH)
        self.writer.add_block_count(LAYERS)
        self.writer.add_feed_forward_length(INNER)
        self.writer.add_head_count(HEADS)
        self.writer.add_file_type(LlamaFileType.ALL_F32)
        self._random = np.random.default_rng(1)
        self.vocab_size = 0

    def add(self, name: str, *shape: int, kind: GGMLQuantizationType | None = None) -> None:
        """A tensor of random weights; `shape` is numpy's, rows first."""
        kind = self.kind if kind is None and len(shape) == 2 else kind or GGMLQuantizationType.F32
        weights = self._random.standard_normal(shape).astype(np.float32)
        if name.endswith("norm.weight"):
            weights = 1 + weights / 10
        elif len(shape) == 2 and not name.startswith(("token_embd", "output")):
            weights /= np.sqrt(shape[-1])
        if kind is GGMLQuantizationType.F32:
            self.writer.add_tensor(f"{name}", weights)
        else:
            self.writer.add_tensor(f"{name}", quantize(weights, kind), raw_dtype=kind)

    def byte_level_vocabulary(self, pre: str = "qwen2", template: str | None = CHATML, *, unused: int = 0) -> None:
        """The 256 bytes, a few merges, and ChatML's control tokens; then as many `unused` tokens as requested."""
        alphabet = ALPHABET
        merges = ["Ġ t", "h e", "Ġt he", "i n", "e r", "a n"]
        tokens = [*alphabet, *(merge.replace(" ", "") for merge in merges)]
        types = [TokenType.NORMAL] * len(tokens)
        for text in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
            tokens.append(text)
            types.append(TokenType.CONTROL)
        for text in ("<think>", "</think>", "<tool_call>", "</tool_call>"):
            tokens.append(text)
            types.append(TokenType.USER_DEFINED)
        tokens += [f"[PAD{number}]" for number in range(unused)]
        types += [TokenType.UNUSED] * unused
        self.writer.add_tokenizer_model("gpt2")
        self.writer.add_tokenizer_pre(pre)
        self.writer.add_token_list(tokens)
        self.writer.add_token_types(types)
        self.writer.add_token_merges(merges)
        self.writer.add_bos_token_id(tokens.index("<|endoftext|>"))
        self.writer.add_eos_token_id(tokens.index("<|im_end|>"))
        self.writer.add_add_bos_token(False)
        if template is not None:
            self.writer.add_chat_template(template)
        self.vocab_size = len(tokens)

    def sentencepiece_vocabulary(self) -> None:
        """Control tokens, the 256 bytes, and a few words."""
        tokens = ["<unk>", "<bos>", "<eos>", *(f"<0x{byte:02X}>" for byte in range(256))]
        types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *([TokenType.BYTE] * 256)]
        words = ["▁the", "▁", "t", "h", "e", "th", "▁t", "▁th", "a", "n", "▁a", "an"]
        tokens += words
        types += [TokenType.NORMAL] * len(words)
        self.writer.add_tokenizer_model("llama")
        self.writer.add_token_list(tokens)
        self.writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(words))])
        self.writer.add_token_types(types)
        self.writer.add_bos_token_id(1)
        self.writer.add_eos_token_id(2)
        self.writer.add_unk_token_id(0)
        self.vocab_size = len(tokens)

    def wordpiece_vocabulary(self) -> None:
        """BERT's control tokens, letters that start a word, and letters that continue one."""
        letters = "abcdefghijklmnopqrstuvwxyz"
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *("▁" + c for c in letters), *letters]
        self.writer.add_tokenizer_model("bert")
        self.writer.add_token_list(tokens)
        self.writer.add_token_types([TokenType.CONTROL] * 5 + [TokenType.NORMAL] * (len(tokens) - 5))
        self.writer.add_token_type_count(2)
        self.writer.add_pad_token_id(0)
        self.writer.add_unk_token_id(1)
        self.writer.add_bos_token_id(2)
        self.writer.add_sep_token_id(3)
        self.writer.add_mask_token_id(4)
        self.vocab_size = len(tokens)

    def write(self) -> Path:
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()
        return self.path


def decoder(model: TinyModel, *, biases: bool = False, head_norms: bool = False, fused: bool = False) -> None:
    """The tensors and settings that llama-like architectures share."""
    model.writer.add_head_count_kv(KV_HEADS)
    model.writer.add_layer_norm_rms_eps(1e-5)
    model.writer.add_rope_freq_base(10000.0)
    model.writer.add_rope_dimension_count(HEAD)
    model.add("token_embd.weight", model.vocab_size, WIDTH)
    model.add("output_norm.weight", WIDTH)
    model.add("output.weight", model.vocab_size, WIDTH)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        model.add(f"{block}attn_norm.weight", WIDTH)
        model.add(f"{block}ffn_norm.weight", WIDTH)
        model.add(f"{block}attn_output.weight", WIDTH, WIDTH)
        model.add(f"{block}ffn_down.weight", WIDTH, INNER)
        if fused:
            model.add(f"{block}attn_qkv.weight", WIDTH + 2 * HEAD * KV_HEADS, WIDTH)
            model.add(f"{block}ffn_up.weight", 2 * INNER, WIDTH)
            continue
        model.add(f"{block}ffn_up.weight", INNER, WIDTH)
        model.add(f"{block}ffn_gate.weight", INNER, WIDTH)
        for name, rows in (("q", WIDTH), ("k", HEAD * KV_HEADS), ("v", HEAD * KV_HEADS)):
            model.add(f"{block}attn_{name}.weight", rows, WIDTH)
            if biases:
                model.add(f"{block}attn_{name}.bias", rows)
        if head_norms:
            model.add(f"{block}attn_q_norm.weight", HEAD)
            model.add(f"{block}attn_k_norm.weight", HEAD)


def qwen2(model: TinyModel, *, unused: int = 0) -> None:
    model.byte_level_vocabulary(unused=unused)
    decoder(model, biases=True)


def qwen3(model: TinyModel) -> None:
    model.byte_level_vocabulary(template=THINKING)
    model.writer.add_key_length(HEAD)
    model.writer.add_value_length(HEAD)
    decoder(model, head_norms=True)


def gemma3(model: TinyModel) -> None:
    model.sentencepiece_vocabulary()
    model.writer.add_key_length(HEAD)
    model.writer.add_value_length(HEAD)
    model.writer.add_sliding_window(128)
    decoder(model, head_norms=True)
    for layer in range(LAYERS):
        model.add(f"blk.{layer}.post_attention_norm.weight", WIDTH)
        model.add(f"blk.{layer}.post_ffw_norm.weight", WIDTH)


def phi3(model: TinyModel) -> None:
    model.sentencepiece_vocabulary()
    model.writer.add_rope_scaling_orig_ctx_len(CONTEXT)
    decoder(model, fused=True)


def llama(model: TinyModel) -> None:
    """With frequencies of its own for rotary positions, as Llama 3.1 and later have."""
    model.byte_level_vocabulary("llama-bpe")
    model.writer.add_vocab_size(model.vocab_size)
    decoder(model)
    model.writer.add_tensor("rope_freqs.weight", np.linspace(1, 8, HEAD // 2, dtype=np.float32))


def bert(model: TinyModel, pooling: gguf.PoolingType = gguf.PoolingType.MEAN) -> None:
    model.wordpiece_vocabulary()
    model.writer.add_causal_attention(False)
    model.writer.add_pooling_type(pooling)
    model.writer.add_layer_norm_eps(1e-12)
    model.add("token_embd.weight", model.vocab_size, WIDTH)
    model.add("token_types.weight", 2, WIDTH, kind=GGMLQuantizationType.F32)
    model.add("position_embd.weight", CONTEXT, WIDTH, kind=GGMLQuantizationType.F32)
    norm(model, "token_embd_norm")
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"):
            model.add(f"{block}{name}.weight", WIDTH, WIDTH)
            model.add(f"{block}{name}.bias", WIDTH)
        norm(model, f"{block}attn_output_norm")
        norm(model, f"{block}layer_output_norm")


def reranker(model: TinyModel) -> None:
    """A BERT that scores how well a text answers a query."""
    bert(model, gguf.PoolingType.RANK)
    for name, rows in (("cls", WIDTH), ("cls.output", 1)):
        model.add(f"{name}.weight", rows, WIDTH, kind=GGMLQuantizationType.F32)
        model.add(f"{name}.bias", rows)


def norm(model: TinyModel, name: str) -> None:
    model.add(f"{name}.weight", WIDTH)
    model.add(f"{name}.bias", WIDTH)


ARCHITECTURES: dict[str, Callable[[TinyModel], None]] = {
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma3": gemma3,
    "phi3": phi3,
    "llama": llama,
    "bert": bert,
}


def write_tiny_model(
    folder: Path, architecture: str, kind: GGMLQuantizationType = GGMLQuantizationType.F32, *, pre: str | None = None
) -> Path:
    """A model of about 2 MB, its matrices of type `kind`. `pre` names another pre-tokenizer (qwen2 only)."""
    model = TinyModel(folder / f"tiny-{architecture}-{kind.name}{f'-{pre}' if pre else ''}.gguf", architecture, kind)
    if architecture == "reranker":
        model = TinyModel(folder / "tiny-reranker.gguf", "bert", kind)
        reranker(model)
    elif pre:
        model.byte_level_vocabulary(pre)
        decoder(model, biases=True)
    else:
        ARCHITECTURES[architecture](model)
    return model.write()
