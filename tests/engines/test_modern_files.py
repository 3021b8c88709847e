"""Files of today's architectures and quantizations: recognized, loaded, answering. Bad ones are rejected, and never
crash."""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, PoolingType
from gguf.quants import quantize

from ggserve import temporary
from ggserve.errors import EngineError, InvalidRequest, ModelFileError
from ggserve.generation import SamplingParams
from ggserve.messages import Tools
from ggserve.model.gguf_model import GGUFModel
from tests.answers import answer
from tests.conftest import ROOT
from tests.engines.load_changed_models import spec_of
from tests.engines.tiny_models import ARCHITECTURES, HEAD, WIDTH, TinyModel, bert, decoder, write_tiny_model
from tests.processes import clean_environment

GREEDY = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)
CHAT = [{"role": "user", "content": "the cat"}]


def load(path: Path, **settings) -> GGUFModel:
    return GGUFModel(path, threads=1, parallel=2, **settings)


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "bert"])
def test_each_architecture_answers(tmp_path: Path, architecture: str):
    model = load(write_tiny_model(tmp_path, architecture))
    try:
        assert model.engine.name == "llama.cpp"
        assert architecture in model.engine_reason or "tokenizer.ggml.scores" in model.engine_reason
        assert answer(model.complete("the cat", GREEDY))[1].completion_tokens == 8
        assert answer(model.chat(CHAT, GREEDY))[1].finish_reason == "length"
        short, long = asyncio.run(model.embed(["the cat", "the cat " * 60]))  # the long one takes two batches
        assert short.vector.shape == long.vector.shape == (WIDTH,)
        assert long.prompt_tokens > 256
    finally:
        model.close()


def test_an_embedding_model_embeds_and_does_nothing_else(tmp_path: Path):
    model = load(write_tiny_model(tmp_path, "bert"))
    try:
        assert model.features == {"embeddings"}
        first, second = asyncio.run(model.embed(["the cat", "the cat"]))
        assert np.allclose(first.vector, second.vector, atol=1e-5)
        assert np.isclose(np.linalg.norm(first.vector), 1, atol=1e-5)
        ids = model.tokenize("the cat")
        assert (ids[0], ids[-1]) == (2, 3)  # [CLS] and [SEP], which its own tokenizer adds
        assert first.prompt_tokens == len(ids)
        with pytest.raises(InvalidRequest):
            asyncio.run(model.embed([[]]))
    finally:
        model.close()


def test_a_truncated_input_keeps_its_end_token(tmp_path: Path):
    model = load(write_tiny_model(tmp_path, "bert"), context_length=32)
    try:
        long = "cat " * 100
        ids = model.tokenize(long)
        kept = [*ids[:30], ids[-1]]
        truncated, exact = asyncio.run(model.embed([long, kept], truncate=True))
        assert truncated.prompt_tokens == 31
        assert np.allclose(truncated.vector, exact.vector, atol=1e-5)
    finally:
        model.close()


def test_thoughts_are_told_apart(tmp_path: Path):
    model = load(write_tiny_model(tmp_path, "qwen3"))
    end_of_thought = model.tokenize("</think>")[0]

    async def parts(bias: dict[int, float]) -> tuple[str, str]:
        params = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True, logit_bias=bias)
        deltas = [delta async for delta in model.chat(CHAT, params)]
        return "".join(d.reasoning for d in deltas), "".join(d.text for d in deltas)

    try:
        reasoning, text = asyncio.run(parts({end_of_thought: -100}))
        assert (bool(reasoning), text) == (True, "")
        reasoning, text = asyncio.run(parts({end_of_thought: 1000}))
        assert reasoning == ""
    finally:
        model.close()


@pytest.mark.parametrize("pre", [None, "chameleon"])  # our template engine, and llama.cpp's
def test_a_template_is_told_its_arguments(tmp_path: Path, pre: str | None):
    template = tmp_path / "thinking.jinja"
    template.write_text(
        "{% for m in messages %}{{ m.content }}{% endfor %}"
        "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{{ style }}"
    )
    model = load(write_tiny_model(tmp_path, "qwen2", pre=pre), chat_template=str(template))
    try:

        def count(begun: str = "", **told: object) -> int:
            return asyncio.run(model.count_chat(CHAT, begun=begun, template_arguments=told))

        told = [
            {},
            {"enable_thinking": True},
            {"enable_thinking": False},
            {"style": " the cat"},
            {"style": "<|im_end|>"},
        ]
        plain, thinks, does_not, styled, alike = counts = [count(**some) for some in told]
        assert plain == thinks == does_not - 2
        assert styled == plain + len(model.tokenize(" the cat", add_special=False))
        assert alike > plain + 1  # a look-alike is text
        for some, tokens in zip(told, counts, strict=True):
            assert answer(model.chat(CHAT, GREEDY, template_arguments=some))[1].prompt_tokens == tokens
        # Answers that have begun are rendered by our own codec.
        assert count("a", enable_thinking=False) == count("a") + 2
    finally:
        model.close()


def test_a_template_that_wants_short_ids_of_calls_gets_them(tmp_path: Path):
    template = tmp_path / "mistral.jinja"
    short = "{% if NAME is not defined or NAME | length != 9 %}{{ raise_exception('not short') }}{% endif %}"
    template.write_text(
        "{% for m in messages %}{% if m.role == 'user' %}"
        "{% if tools and loop.last %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
        "[INST] {{ m.content }}[/INST]{% elif m.tool_calls %}[TOOL_CALLS] [{% for call in m.tool_calls %}"
        + short.replace("NAME", "call.id")
        + '{{ (call.function | tojson)[:-1] }}, "id": "{{ call.id }}"}{% endfor %}]{{ eos_token }}'
        "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% else %}"
        + short.replace("NAME", "m.tool_call_id")
        + '[TOOL_RESULTS] {"content": {{ m.content }}, "call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]'
        "{% endif %}{% endfor %}"
    )
    function = {"name": "look", "parameters": {"type": "object", "properties": {}}}
    call = {"id": "call_0123456789abcdef", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    chat = [
        *CHAT,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "a cat"},
    ]
    model = load(write_tiny_model(tmp_path, "qwen2"), chat_template=str(template))
    try:
        tools = Tools(({"type": "function", "function": function},))
        says_the = SamplingParams(max_tokens=4, temperature=0, logit_bias={model.tokenize(" the")[0]: 1000.0})
        _, last = answer(model.chat(chat, says_the, tools=tools))
        assert last.prompt_tokens == asyncio.run(model.count_chat(chat, tools=tools))
    finally:
        model.close()


def test_a_vocabulary_that_we_cannot_read_is_read_by_the_engine(tmp_path: Path):
    model = load(write_tiny_model(tmp_path, "qwen2", pre="modern-bert"))
    try:
        ids = model.tokenize("the cat <|im_end|>")
        assert model.detokenize(ids) == "the cat <|im_end|>"
        assert b"".join(model.pieces(ids)) == b"the cat <|im_end|>"
        assert model.pieces(model.tokenize("é")) == [b"\xc3", b"\xa9"]
        assert answer(model.complete("the cat", GREEDY))[1].completion_tokens == 8
        assert model.render_chat(CHAT).startswith("<|im_start|>user\nthe cat<|im_end|>")
        _, plain = answer(model.chat(CHAT, GREEDY))
        _, alike = answer(model.chat([{"role": "user", "content": "the cat<|im_end|>"}], GREEDY))
        assert alike.prompt_tokens > plain.prompt_tokens + 1  # a look-alike is text
    finally:
        model.close()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
def test_a_reranker_as_the_converter_writes_it_ranks(tmp_path: Path, kind: str):
    tiny = TinyModel(tmp_path / "rank.gguf", "bert")
    bert(tiny, PoolingType.RANK)
    tiny.add("cls.output.weight", 1, WIDTH, kind=GGMLQuantizationType[kind])
    tiny.add("cls.output.bias", 1)
    model = load(tiny.write())
    try:
        assert len(asyncio.run(model.rerank("the cat", ["the", "a dog"])).scores) == 2
    finally:
        model.close()


def test_a_reranker_without_a_head_is_refused(tmp_path: Path):
    tiny = TinyModel(tmp_path / "rank.gguf", "bert")
    bert(tiny, PoolingType.RANK)
    with pytest.raises(ModelFileError, match=r"cls\.output\.weight: missing"):
        load(tiny.write())


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path):
    spec = spec_of(write_tiny_model(tmp_path, "qwen2"))
    spec.fields["general.architecture"] = (8, "t5")
    with pytest.raises(ModelFileError, match="an encoder-decoder"):
        load(spec.write(tmp_path / "t5.gguf"))


def test_a_pooling_type_of_minus_one_is_none(tmp_path: Path):
    spec = spec_of(write_tiny_model(tmp_path, "qwen2"))
    spec.fields["qwen2.pooling_type"] = (4, 2**32 - 1)
    model = load(spec.write(tmp_path / "unpooled.gguf"))
    try:
        assert answer(model.complete("the cat", GREEDY))[1].completion_tokens == 8
        assert asyncio.run(model.embed(["the cat"]))[0].vector.shape == (WIDTH,)
    finally:
        model.close()


def test_a_vocabulary_as_gemma_4_has_it_is_run(tmp_path: Path):
    tiny = TinyModel(tmp_path / "tiny.gguf", "llama")
    tokens = ["<pad>", "<eos>", "<bos>", *(f"<0x{byte:02X}>" for byte in range(256)), "t", "h", "e", "▁", "th", "▁th"]
    types = [3, 3, 3, *[6] * 256, *[1] * 6]
    tiny.writer.add_tokenizer_model("gemma4")
    tiny.writer.add_token_list(tokens)
    tiny.writer.add_token_scores([0.0] * len(tokens))
    tiny.writer.add_token_types(types)
    tiny.writer.add_token_merges(["t h", "▁ th"])
    tiny.writer.add_bos_token_id(2)
    tiny.writer.add_eos_token_id(1)
    tiny.vocab_size = len(tokens)
    tiny.writer.add_vocab_size(len(tokens))
    decoder(tiny)
    model = load(tiny.write())
    try:
        assert not model._codec.blocks
        for text in ("the the\n\né", " th"):
            native = model.engine.tokenize(text, add_special=True, parse_special=False)
            assert model.tokenize(text) == native
        assert answer(model.complete("the", GREEDY))[1].completion_tokens == 8
    finally:
        model.close()


def writable_types() -> list[GGMLQuantizationType]:
    """The types that the gguf package can write and a weight matrix can have."""

    def writable(kind: GGMLQuantizationType) -> bool:
        try:
            quantize(np.zeros((1, WIDTH), np.float32), kind)
        except (NotImplementedError, KeyError):
            return False
        return True

    return [kind for kind in GGMLQuantizationType if kind is not GGMLQuantizationType.Q8_1 and writable(kind)]


def test_each_quantization_answers(tmp_path: Path):
    kinds = writable_types()
    assert {"F16", "BF16", "Q4_0", "Q8_0", "TQ1_0", "TQ2_0"} <= {kind.name for kind in kinds}
    for kind in kinds:
        model = load(write_tiny_model(tmp_path, "qwen2", kind), context_length=256)
        _, last = answer(model.complete("the cat", GREEDY))
        model.close()
        assert last.completion_tokens == 8, kind.name


def test_ctransformers_cannot_be_forced_on_a_modern_file(tmp_path: Path):
    with pytest.raises(ModelFileError, match=r"ctransformers cannot run.*qwen2.*ENGINE=llama\.cpp runs it"):
        load(write_tiny_model(tmp_path, "qwen2"), engine="ctransformers")


def test_llama_cpp_cannot_be_forced_on_a_converted_file(default_path: Path):
    with pytest.raises(ModelFileError, match=r"raw bytes.*ENGINE=ctransformers runs it"):
        load(default_path, engine="llama.cpp")


def test_the_reason_of_a_refused_load_is_llama_cpps(tmp_path: Path):
    model = write_tiny_model(tmp_path, "qwen2")
    data = model.read_bytes().replace(b"blk.1.attn_k.bias", b"blk.1.attn_k.bier")
    model.write_bytes(data)
    folders = set(Path(tempfile.gettempdir()).glob(f"{temporary.prefix()}*"))
    with pytest.raises(EngineError, match=r"llama\.cpp cannot load .*wrong number of tensors"):
        load(model)
    assert set(Path(tempfile.gettempdir()).glob(f"{temporary.prefix()}*")) <= folders


def test_a_file_that_ends_the_process_is_told_in_a_line(tmp_path: Path):
    spec = spec_of(write_tiny_model(tmp_path, "qwen2"))
    fields = {key.replace("qwen2.", "ernie4_5."): field for key, field in spec.fields.items()}
    fields["general.architecture"] = (fields["general.architecture"][0], "ernie4_5")
    rotary = "ernie4_5.rope.dimension_count"
    fields[rotary] = (fields[rotary][0], HEAD // 2)  # llama.cpp asserts that it is the size of a head
    spec.fields = fields
    path = spec.write(tmp_path / "bad.gguf")
    result = subprocess.run(
        [sys.executable, "main.py", "--port", "1"],
        cwd=ROOT,
        env={**clean_environment(), "MODEL_PATH": str(path), "LOG_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode != 0
    told, *others = sorted(result.stderr.splitlines())  # two processes tell, and either may be the first
    assert re.fullmatch(r"ggserve: llama\.cpp ended while loading bad\.gguf: .*GGML_ASSERT.*", told)
    assert len(others) <= 1
    assert all(re.fullmatch("ggserve: the worker was killed by SIGABRT: .*", other) for other in others)


def test_the_listener_is_private_and_goes_away(llama_cpp_model: GGUFModel, original_path: Path):
    model = load(original_path, context_length=256)
    listener = model.engine._transport._listener  # type: ignore[union-attr]
    assert listener.path.parent.stat().st_mode & 0o777 == 0o700
    listener.key, key = "wrong", listener.key
    with pytest.raises(EngineError):
        listener.post("/tokenize", {"content": "a"})
    listener.key = key
    assert listener.post("/tokenize", {"content": "a"})["tokens"]
    model.close()
    assert not listener.path.parent.exists()


def test_changed_metadata_never_ends_the_process(tmp_path: Path):
    program = Path(__file__).parent / "load_changed_models.py"
    result = subprocess.run(
        [sys.executable, str(program), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, f"{result.stdout[-200:]}\n{result.stderr[-2000:]}"
