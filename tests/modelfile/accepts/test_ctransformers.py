"""ctransformers runs supported forms, rules reject others, and no accepted file kills it."""

import random
from pathlib import Path

import pytest

from ggserve.errors import ModelFileError
from ggserve.modelfile.accepts.ctransformers import MATRIX_TYPES, ctransformers_objection
from ggserve.modelfile.gguf import read_gguf
from ggserve.modelfile.tensor_types import TENSOR_TYPES
from tests.modelfile import mutations
from tests.modelfile import tiny_gguf as tiny
from tests.modelfile.changes import Change, add, drop, items, lose, outcomes, put, retype, runs_avx2


def objection(spec: tiny.Spec, folder: Path) -> str | None:
    return ctransformers_objection(read_gguf(spec.write(folder / "model.gguf")))


@runs_avx2
def test_every_supported_form_runs(tmp_path: Path) -> None:
    specs = {f"llama-{TENSOR_TYPES[kind].name}": tiny.llama(kind, embd=256) for kind in sorted(MATRIX_TYPES)}
    specs |= {
        "llama-bpe": tiny.llama(tokenizer="gpt2"),
        "falcon-7b": tiny.falcon(),
        "falcon-40b": tiny.falcon(2, new_decoder=True, kv_heads=2),
        "version-2": tiny.llama(),
        "linear": tiny.llama(),
    }
    specs["version-2"].version = 2
    specs["linear"].fields["llama.rope.scale_linear"] = (tiny.F32, 2.0)
    specs["linear"].fields["llama.rope.scaling.factor"] = (tiny.F32, 2.0)
    paths = [spec.write(tmp_path / name) for name, spec in specs.items()]
    assert {path.name: ctransformers_objection(read_gguf(path)) for path in paths} == dict.fromkeys(specs)
    assert dict(zip(specs, outcomes(paths), strict=True)) == dict.fromkeys(specs, "finite")


@runs_avx2
@pytest.mark.parametrize("form", ["llama", "falcon", "falcon-40b"])
def test_the_most_layers_allowed_still_run(tmp_path: Path, form: str) -> None:
    def deep(layers: int) -> tiny.Spec:
        spec = (
            tiny.llama(embd=32, heads=2, layers=1)
            if form == "llama"
            else tiny.falcon(embd=32, heads=2, new_decoder=form == "falcon-40b")
        )
        spec.fields[f"{spec.fields['general.architecture'][1]}.block_count"] = (tiny.U32, layers)
        for name, tensor in list(spec.tensors.items()):
            if name.startswith("blk.0."):
                spec.tensors |= {name.replace("blk.0.", f"blk.{layer}."): tensor for layer in range(1, layers)}
        return spec

    most = {"llama": 113, "falcon": 116, "falcon-40b": 107}[form]
    assert objection(deep(most), tmp_path) is None
    assert outcomes([tmp_path / "model.gguf"]) == ["finite"]
    assert "block_count" in str(objection(deep(most + 1), tmp_path))


TOKENS, SCORES, TYPES = (f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type"))
ALPHABETIC = tiny.bpe_vocabulary(raw=False)[0]
PAIR = tiny.Array(tiny.U32, [2, 2])
NESTED = tiny.Array(tiny.ARRAY, [tiny.Array(tiny.U8, [1])])


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (put("x\0y", tiny.U8, 1), "NUL"),
        (put("x", tiny.ARRAY, NESTED), "x: an array of arrays"),
        (put("general.architecture", tiny.STRING, "qwen2"), "'qwen2'"),
        (put("general.architecture", tiny.U32, 1), "general.architecture"),
        (put("general.name", tiny.U32, 1), "general.name"),
        (drop("llama.context_length"), "llama.context_length: missing"),
        (put("llama.context_length", tiny.U64, 64), "llama.context_length: has type UINT64"),
        (put("llama.context_length", tiny.U32, 0), "llama.context_length"),
        (put("llama.context_length", tiny.U32, 2**31), "llama.context_length"),
        (put("llama.embedding_length", tiny.U32, 0), "llama.embedding_length"),
        (put("llama.attention.head_count", tiny.U32, 0), "llama.attention.head_count"),
        (put("llama.attention.head_count", tiny.U32, 5), "llama.attention.head_count"),
        (put("llama.attention.head_count", tiny.U32, 64), "head size 1 is odd"),
        (put("llama.attention.head_count_kv", tiny.U32, 0), "llama.attention.head_count_kv"),
        (put("llama.attention.head_count_kv", tiny.U32, 3), "llama.attention.head_count_kv"),
        (
            put("llama.attention.head_count_kv", tiny.ARRAY, PAIR),
            "head_count_kv: has type ARRAY",
        ),
        (
            put("llama.feed_forward_length", tiny.ARRAY, PAIR),
            "feed_forward_length: has type",
        ),
        (put("llama.attention.layer_norm_rms_epsilon", tiny.F64, 1e-5), "rms_epsilon: has type FLOAT64"),
        (put("llama.attention.layer_norm_rms_epsilon", tiny.F32, float("nan")), "rms_epsilon: nan"),
        (put("llama.rope.dimension_count", tiny.U32, 8), "rope.dimension_count: 8"),
        (put("llama.attention.key_length", tiny.U32, 8), "key_length: 8"),
        (put("llama.attention.value_length", tiny.U32, 8), "value_length: 8"),
        (put("llama.block_count", tiny.U32, 0), "block_count: 0"),
        (put("llama.block_count", tiny.U32, 2**32 - 1), "block_count"),
        (put("llama.expert_count", tiny.U32, 8), "llama.expert_count"),
        (put("llama.attention.sliding_window", tiny.U32, 4096), "sliding_window"),
        (put("llama.logit_scale", tiny.F32, 0.5), "logit_scale"),
        (put("llama.something.new", tiny.U32, 1), "llama.something.new"),
        (put("llama.logit_scale", tiny.ARRAY, tiny.Array(tiny.F32, [1.0, 1.0])), "logit_scale"),
        (put("llama.rope.freq_base", tiny.F32, 0.0), "rope.freq_base"),
        (put("llama.rope.freq_base", tiny.U32, 10000), "rope.freq_base"),
        (put("llama.rope.scale_linear", tiny.F32, float("inf")), "rope.scale_linear"),
        (put("llama.rope.scaling.type", tiny.STRING, "yarn"), "'yarn'"),
        (put("llama.rope.scaling.factor", tiny.F32, 4.0), "rope.scaling.factor"),
        (put("tokenizer.ggml.model", tiny.STRING, "bert"), "'bert'"),
        (drop("tokenizer.ggml.model"), "tokenizer.ggml.model: missing"),
        (drop(TOKENS), TOKENS),
        (put(TOKENS, tiny.ARRAY, tiny.Array(tiny.U32, [1, 2])), "not an array of STRING"),
        (drop(SCORES), f"{SCORES}: missing"),
        (items(SCORES, lambda scores: scores[:-1]), f"{SCORES}: 279 entries for 280"),
        (items(SCORES, lambda scores: scores, tiny.F64), f"{SCORES}: not an array of FLOAT32"),
        (drop(TYPES), f"{TYPES}: missing"),
        (items(TYPES, lambda types: [*types, 1]), f"{TYPES}: 281 entries for 280"),
        (items(TYPES, lambda types: types, tiny.U8), f"{TYPES}: not an array of INT32"),
        (items(TOKENS, lambda tokens: [b"x" if t == b"<0x0A>" else t for t in tokens]), "no token <0x0A>"),
        (items(TYPES, lambda types: [6, *types[1:]]), "token 0 has type BYTE"),
        (put("tokenizer.ggml.add_space_prefix", tiny.BOOL, False), "add_space_prefix"),
        (put("tokenizer.ggml.bos_token_id", tiny.U32, 280), "bos_token_id: 280"),
        (put("tokenizer.ggml.padding_token_id", tiny.U32, 2**32 - 1), "padding_token_id"),
        (put("tokenizer.ggml.unknown_token_id", tiny.I32, 0), "unknown_token_id: has type INT32"),
        (lose("output.weight"), "output.weight: missing (the output is tied to"),
        (lose("blk.1.ffn_up.weight"), "blk.1.ffn_up.weight: missing"),
        (add("rope_freqs.weight", 8), "rope_freqs.weight: rope frequencies"),
        (add("blk.0.attn_q.bias", 64), "blk.0.attn_q.bias: a bias"),
        (add("blk.0.ffn_gate_inp.weight", 64, 8), "experts"),
        (add("blk.0.ffn_gate.3.weight", 64, 8), "experts"),
        (add("blk.0.attn_q_norm.weight", 16), "blk.0.attn_q_norm.weight: an unsupported tensor"),
        (add("n" * 70, 16), "an unsupported tensor"),
        (add("blk.0.attn_norm.weight", 64, 2), "blk.0.attn_norm.weight: has shape [64, 2]"),
        (add("token_embd.weight", 64, 281), "token_embd.weight: has shape"),
        (retype("blk.0.attn_norm.weight", 1), "blk.0.attn_norm.weight: has type F16, not F32"),
        (retype("blk.0.ffn_up.weight", 30), "blk.0.ffn_up.weight: has the unsupported type BF16"),
        (retype("token_embd.weight", 9), "token_embd.weight: has the unsupported type Q8_1"),
        (retype("output.weight", 20), "output.weight: has the unsupported type IQ4_NL"),
    ],
)
def test_each_objection_names_its_cause(tmp_path: Path, change: Change, names: str) -> None:
    spec = tiny.llama()
    change(spec)
    reason = objection(spec, tmp_path)
    assert reason is not None
    assert names in reason
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (drop("tokenizer.ggml.merges"), "tokenizer.ggml.merges: missing"),
        (put("tokenizer.ggml.merges", tiny.ARRAY, tiny.Array(tiny.U32, [1])), "not an array of STRING"),
        (items(TOKENS, lambda tokens: tiny.bpe_vocabulary(raw=False)[0]), "byte alphabet"),
        (
            items(TOKENS, lambda tokens: [b"?" if token == b"\n" else token for token in tokens]),
            "byte alphabet",
        ),
        (
            items(TOKENS, lambda tokens: [*tiny.bpe_vocabulary(raw=False)[0][:-2], b"\n", b" "]),
            "byte alphabet",
        ),
    ],
)
def test_bpe_vocabularies_must_be_raw(tmp_path: Path, change: Change, names: str) -> None:
    spec = tiny.llama(tokenizer="gpt2")
    change(spec)
    assert names in str(objection(spec, tmp_path))


@pytest.mark.parametrize("alignment", [4, 1 << 20])
def test_odd_alignments_are_refused(tmp_path: Path, alignment: int) -> None:
    spec = tiny.llama(layers=1)
    spec.alignment = alignment
    spec.fields["general.alignment"] = (tiny.U32, alignment)
    assert "general.alignment" in str(objection(spec, tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        put("llama.vocab_size", tiny.U32, 5),
        put("llama.expert_count", tiny.U32, 0),
        put("llama.rope.scaling.type", tiny.STRING, "none"),
        put("llama.rope.scaling.factor", tiny.F32, 1.0),
        put("llama.attention.key_length", tiny.U32, 16),
        put("llama.logit_scale", tiny.F32, 1.0),
        put("tokenizer.chat_template", tiny.STRING, "{{ messages }}"),
        put("general.tags", tiny.ARRAY, tiny.Array(tiny.STRING, ["chat"])),
        items(TYPES, lambda types: types, tiny.U32),
        add("output_norm.weight", 64, 1),
    ],
)
def test_harmless_settings_are_accepted(tmp_path: Path, change: Change) -> None:
    spec = tiny.llama()
    change(spec)
    assert objection(spec, tmp_path) is None


@runs_avx2
def test_damaged_files_that_pass_never_kill_ctransformers(tmp_path: Path) -> None:
    chance = random.Random(2027)
    bases = mutations.bases()
    passed = []
    for number in range(1200):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(mutations.mutant(bases[number % len(bases)], chance))
        try:
            reason = ctransformers_objection(read_gguf(path))
        except ModelFileError:
            reason = "not a GGUF file"
        if reason is None:
            passed.append(path)
        else:
            path.unlink()
    assert len(passed) > 150
    assert "refused" not in outcomes(passed)
