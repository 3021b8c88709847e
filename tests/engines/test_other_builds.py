"""llama-server builds that differ from llama.cpp's: their flags, samplers, prompt caches and answers."""

import dataclasses
import json
import math
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from ggserve.engines.contract import EngineOptions
from ggserve.engines.llama_cpp import build, child_process
from ggserve.engines.llama_cpp.arguments import CommandLine
from ggserve.engines.llama_cpp.build import Build, read_build
from ggserve.engines.llama_cpp.completion_reader import CompletionReader
from ggserve.engines.llama_cpp.exact_prefix import ExactPrefixes
from ggserve.engines.llama_cpp.fields import sampling_fields
from ggserve.engines.llama_cpp.sampler_chain import NAMES, SamplerChain, spellings
from ggserve.engines.llama_cpp.token_reports import normalized
from ggserve.engines.llama_cpp.transport import Chunk, ServerPlan
from ggserve.engines.llama_cpp.trial import PATHS, Findings, Trial
from ggserve.engines.pool import common_prefix
from ggserve.errors import EngineError, InvalidRequest
from ggserve.generation import LLAMA_CPP_SAMPLERS, SamplingParams

CPU_ONLY = """\
  -m,    --model FNAME            model path
         --host HOST              ip address to listen (default: 127.0.0.1)
         --port PORT              port to listen
  -c,    --ctx-size N             size of the prompt context
  -np,   --parallel N             number of parallel sequences
  -t,    --threads N              number of threads
         --fit                    automatically determine which tensors to offload to the GPU(s)
  -md,   --model-draft FNAME      draft model
         --embedding(s)           restrict to only support embedding use case
         --log-disable            Disable trace logs
         --webui NAME             controls which webui to server:
                                  - none: disable webui
  --spec-type SPEC[:k=v,...]      canonical speculative stage entry; repeat for a chain.
                                  keys: n_max,n_min,ngram_size_n
"""
GPU = f"{CPU_ONLY}  -ngl,  --gpu-layers N           number of layers to store in VRAM\n"
# The samplers of ik_llama.cpp.
OTHER = ("dry", "top_k", "tfs_z", "typical_p", "top_p", "min_p", "xtc", "top_n_sigma", "temperature", "adaptive_p")


def build_of(folder: Path, text: str) -> Build:
    path = folder / f"llama-server-{len(text)}"
    path.write_text(f"#!/bin/sh\ncat <<'END'\ngeneral:\n\n{text}END\n")
    path.chmod(0o755)
    return read_build(str(path))


def arguments(folder: Path, text: str, layers: int | None, **options: Any) -> str:
    plan = ServerPlan(path=Path("model.gguf"), options=EngineOptions(context_length=64, **options))
    return " ".join(CommandLine(build_of(folder, text), plan, folder).of(layers, []))


def test_a_build_without_a_gpu_needs_no_flag_for_one(tmp_path: Path) -> None:
    for layers in (None, 0):
        line = arguments(tmp_path, CPU_ONLY, layers)
        assert "layers" not in line
        assert "--fit" not in line
    with pytest.raises(EngineError, match=r"GPU_LAYERS=5: .* cannot use a GPU"):
        arguments(tmp_path, CPU_ONLY, 5)


def test_flags_are_given_as_the_build_spells_them(tmp_path: Path) -> None:
    assert arguments(tmp_path, GPU, None).endswith("--fit")
    assert arguments(tmp_path, GPU, 5).endswith("--gpu-layers 5")
    assert "--webui none" in arguments(tmp_path, GPU, 5)
    assert "--embeddings" in arguments(tmp_path, GPU, 5)
    assert "--log-disable" in arguments(tmp_path, GPU, 5)
    line = arguments(tmp_path, CPU_ONLY, 0, speculate="ngram-mod", draft_model=Path("draft.gguf"))
    assert "--spec-type ngram-mod:n_max=8,n_min=0,ngram_size_n=8 --spec-type draft" in line


def fields(**params: Any) -> dict[str, Any]:
    return {**sampling_fields(SamplingParams(**params), 64, 99), "prompt": [1, 2, 3]}


def test_samplers_are_named_as_the_build_names_them() -> None:
    body = fields(typical_p=0.5)
    assert SamplerChain().adapt(body) == body
    assert SamplerChain(spellings(OTHER)).adapt(body)["samplers"] == ["top_k", "temperature", "typical_p", "top_p"]
    with pytest.raises(InvalidRequest, match="no sampler typ_p"):
        SamplerChain(spellings(["top_k", "temperature", "top_p"])).adapt(body)


def test_penalties_that_come_first_are_asked_for_only_there() -> None:
    chain = SamplerChain(spellings(OTHER), penalizes_first=True)
    body = chain.adapt(fields(repetition_penalty=1.5))
    assert "penalties" not in body["samplers"]
    assert (body["repeat_penalty"], body["penalty_prompt"]) == (1.5, [1, 2, 3])
    assert chain.adapt(fields())["repeat_penalty"] == 1.0  # whatever the default of the build is
    with pytest.raises(InvalidRequest, match="before all other samplers"):
        chain.adapt(fields(repetition_penalty=1.5, samplers=("top_k", "penalties")))


def test_min_keep_above_top_k_is_refused_where_it_would_change_top_k() -> None:
    chain = SamplerChain(spellings(OTHER), top_k_keeps=True)
    with pytest.raises(InvalidRequest, match="min_keep"):
        chain.adapt(fields(min_keep=7, top_k=5))
    chain.adapt(fields(min_keep=7, top_k=5, temperature=0))


def test_greedy_requests_name_a_temperature_at_which_their_samplers_apply() -> None:
    assert fields(temperature=0, repetition_penalty=1.5)["temperature"] == 0
    for params in ({"dry_multiplier": 0.5}, {"sampled_probabilities": True, "logprobs": 1}):
        body = fields(temperature=0, **params)
        assert (body["temperature"], body["top_k"], body["samplers"][-1]) == (1.0, 1, "top_k")


PIECES = ("a", "b", "ab", " ", "\n", "  ", "a ", "ba")


def text_of(tokens: Sequence[int]) -> str:
    return "".join(PIECES[token] for token in tokens)


def spelled(text: str) -> list[int]:
    """The longest match, as a tokenizer would spell a text."""
    tokens = []
    while text:
        tokens.append(
            max((n for n, piece in enumerate(PIECES) if text.startswith(piece)), key=lambda n: len(PIECES[n]))
        )
        text = text[len(PIECES[tokens[-1]]) :]
    return tokens


class TextCache:
    """A slot that reuses equal tokens, and after them what has the same text as the prompt, without spaces."""

    def __init__(self) -> None:
        self.cache: list[int] = []

    def run(self, body: dict[str, Any], answer: Sequence[int]) -> tuple[list[int], int]:
        """The tokens that the model sees as its prompt, and how many of them were cached."""
        prompt = body["prompt"]
        equal = common_prefix(self.cache, prompt) if body.get("cache_prompt", True) else 0
        seen, used = list(prompt), equal
        if 0 < equal < min(len(self.cache), len(prompt)):
            sides = self.cache[equal:], prompt[equal:]
            words = ["".join(text_of(side).split()) for side in sides]
            same = common_prefix(*map(list, words))
            lengths = [[len("".join(text_of(side[:n]).split())) for n in range(len(side) + 1)] for side in sides]
            common = max(length for length in {*lengths[0]} & {*lengths[1]} if length <= same)
            used, skipped = (max(n for n, each in enumerate(side) if each == common) for side in lengths)
            seen = [*self.cache[: equal + used], *prompt[equal + skipped :]]
        self.cache = [*seen, *answer[:-1]]
        return seen, used


def test_a_cache_that_compares_texts_never_changes_a_prompt() -> None:
    dice = random.Random(7)
    reused = 0
    for _ in range(200):
        slot, prefixes = TextCache(), ExactPrefixes(spelled)
        prompt = dice.choices(range(len(PIECES)), k=20)
        for _ in range(5):
            body, cut = prefixes.prepare({"prompt": prompt, "id_slot": 0})
            if cut:
                assert slot.run(cut, [0])[0] == cut["prompt"]
            prefixes.begin(body)
            if dice.random() < 0.1:  # it was cancelled before it began
                continue
            answer = dice.choices(range(len(PIECES)), k=dice.randrange(1, 9))
            if len(spelled(text_of(answer))) == len(answer) or dice.random() < 0.5:
                answer = spelled(text_of(answer))
            seen, cached = slot.run(body, answer)
            assert seen == prompt
            reused += cached
            prefixes.evaluated(body)
            if dice.random() < 0.8:  # otherwise it was cancelled
                prefixes.end(body, text_of(answer), len(answer))
            kept = dice.choice([prompt, [*prompt, *spelled(text_of(answer))], prompt[: dice.randrange(1, len(prompt))]])
            prompt = [*kept, *dice.choices(range(len(PIECES)), k=dice.randrange(1, 20))]
    assert reused > 4000


def test_a_slot_of_unknown_contents_is_not_reused() -> None:
    prefixes = ExactPrefixes(spelled)
    body = {"prompt": [1] * 40, "id_slot": 0}
    prefixes.begin(body)
    prefixes.evaluated(body)
    assert prefixes.prepare(body) == (body, None)
    prefixes.begin({"prompt": [2], "id_slot": -1})  # in a slot of the server's choice
    assert prefixes.prepare(body) == ({**body, "cache_prompt": False}, None)
    prefixes.restore(0, body["prompt"])
    assert prefixes.prepare(body) == (body, None)
    longer = {"prompt": [1] * 50, "id_slot": 0}
    assert prefixes.prepare(longer)[1] == {
        "prompt": [1] * 40,
        "n_predict": 1,
        "id_slot": 0,
        "samplers": ["top_k"],
        "top_k": 1,
    }


def streamed(pieces: Sequence[dict[str, Any]], **body: Any) -> list[Chunk]:
    reader = CompletionReader({"prompt": [1, 2, 3], "stream": True, **body})
    chunks = [*reader.feed("".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces).encode())]
    assert reader.complete
    return chunks


def piece(text: str, made: int, end: str | None = None) -> dict[str, Any]:
    choice = {"text": text, "finish_reason": end, "logprobs": None}
    usage = {"usage": {"completion_tokens": made, "prompt_tokens": 3}} if end else {}
    return {"choices": [choice], "timings": {"prompt_n": 1, "predicted_n": made}, **usage}


@pytest.mark.parametrize(
    ("last", "made", "most", "reason"),
    [
        (piece("b", 2), 2, 2, "length"),
        (piece("", 2), 2, 2, "stop"),  # the token that ends an answer
        (piece("b", 2), 3, 3, "length"),  # the third ends within a character
        (piece("b", 2), 3, 9, "stop"),
    ],
)
def test_completions_that_call_every_end_a_stop_end_as_others_do(
    last: dict[str, Any], made: int, most: int, reason: str
) -> None:
    chunks = streamed([piece("a", 1), last, piece("", made, "stop")], n_predict=most)
    assert chunks[0] == {"prompt_progress": {"total": 3, "cache": 2}}
    assert chunks[-1]["choices"][0]["finish_reason"] == reason
    assert chunks[-1]["usage"] == {"completion_tokens": made}
    assert streamed([piece("a", 1), last, piece("", made, "length")])[-1]["choices"][0]["finish_reason"] == "length"


def test_tokens_that_no_piece_counts_are_counted_before_the_end() -> None:
    pieces = [
        {"content": "🙂", "stop": False},
        {"content": "", "stop": True, "stopped_limit": True, "tokens_predicted": 4},
    ]
    counts = [chunk["timings"]["predicted_n"] for chunk in streamed(pieces) if "choices" in chunk]
    assert counts == [1, 4, 4]


@dataclasses.dataclass
class Fake:
    """A build that answers "z"; each field is a way in which it can differ from llama.cpp."""

    ids: tuple[str, ...] = PATHS  # paths whose answers have ids
    names: Sequence[str] | None = LLAMA_CPP_SAMPLERS
    penalizes: bool = True
    bias_first: bool = False
    text_cache: bool = False
    progress: bool = True
    top_k_keeps: bool = False
    lora: bool = True
    twice: bool = False
    sampled: bool = True
    whole: bool = True
    cache: str = ""

    def tokens(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def post(self, path: str, body: dict[str, Any]) -> Any:
        if path == "/tokenize":
            return {"tokens": self.tokens(body["content"])}
        known = None if self.names is None else [name for name in body["samplers"] if name in self.names]
        return {"generation_settings": {"samplers": known}}

    def complete(self, path: str, body: dict[str, Any]) -> list[Chunk]:
        if self.lora and not isinstance(body.get("lora", []), list):
            return [{"error": "lora must be a list"}]
        logits = {ord("z"): 10.0, **dict(body.get("logit_bias", []))}
        likeliest = max(logits, key=lambda token: logits[token]) if self.bias_first else ord("z")
        if self.penalizes and ("penalties" in body["samplers"] or "penalties" not in (self.names or ())):
            for token in {*body["prompt"]} & {*logits}:
                logits[token] -= body.get("presence_penalty", 0)
        chosen = max(logits, key=lambda token: logits[token])
        kept = [{"id": chosen, "prob": float(self.sampled)}] * (body.get("min_keep", 0) if self.top_k_keeps else 1)
        odd = not self.whole and len(body["prompt"]) >= 32 and not body.get("cache_prompt", True)
        logprob = math.log(0.1 if odd else 0.5 / (1.5 if self.twice and body["n_probs"] < 2 else 1))
        told = [{"id": likeliest, "logprob": logprob}, *[{"id": 1, "logprob": logprob}] * (body["n_probs"] > 2)]
        places = {"top_probs": kept} if body.get("post_sampling_probs") else {"top_logprobs": told}
        entry = {"id": chosen, "logprob": logprob, **places} if path in self.ids else {"tok_str": "z", "prob": 0.5}
        text, prompt = self.cache, "".join(map(chr, body["prompt"]))
        self.cache = prompt
        if self.text_cache:
            text, prompt = "".join(text.split()), "".join(prompt.split())
        cached = next((n for n, pair in enumerate(zip(text, prompt, strict=False)) if len({*pair}) > 1), len(text))
        told = {"total": len(body["prompt"]), "cache": cached, **({"processed": 1} if self.progress else {})}
        choice = {"text": "z", "finish_reason": "length", "logprobs": {"content": [entry]}}
        return [{"prompt_progress": told}, {"choices": [choice]}]


@pytest.mark.parametrize(
    ("build", "lacks"),
    [
        (Fake(), []),
        (Fake(names=None), []),
        (Fake(ids=PATHS[1:]), []),
        (Fake(ids=()), ["logprobs"]),
        (Fake(bias_first=True), ["logprobs together with logit_bias"]),
        (Fake(sampled=False), ["probabilities after sampling"]),
        (Fake(progress=False), ["prompt progress"]),
        (Fake(lora=False), ["lora in requests"]),
        (Fake(names=OTHER), []),
        (Fake(names=OTHER, penalizes=False), ["sampler penalties"]),
        (Fake(names=[name for name in NAMES if name != "xtc"]), ["sampler xtc"]),
    ],
    ids=lambda value: None if isinstance(value, list) else repr(value)[5:60],
)
def test_a_trial_finds_what_a_build_lacks(build: Fake, lacks: list[str]) -> None:
    trial = Trial(build.complete, build.post)
    assert trial.error() is None
    assert trial.findings(adapters=True).lacks == lacks


def test_a_trial_finds_how_a_build_differs() -> None:
    def found(build: Fake) -> Findings:
        return Trial(build.complete, build.post).findings(adapters=False)

    assert found(Fake()) == Findings()
    other = found(Fake(ids=PATHS[1:], names=OTHER, text_cache=True, top_k_keeps=True, twice=True))
    assert other.path == "/v1/completions"
    assert other.chain == SamplerChain(spellings(OTHER), penalizes_first=True, top_k_keeps=True)
    assert not other.exact_cache
    assert other.twice
    assert other.whole
    assert not found(Fake(whole=False)).whole
    assert other.lacks == []


@pytest.mark.parametrize("system", ["linux", "win32"])
def test_a_build_that_does_not_answer_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    path = tmp_path / "llama-server"
    path.write_text("#!/bin/sh\nwhile :; do :; done\n")
    path.chmod(0o755)
    monkeypatch.setattr(build, "_SECONDS", 0.2)
    if system == "win32":
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr(child_process, "end_together", lambda pid: None, raising=False)
        monkeypatch.delattr(os, "killpg")
    with pytest.raises(EngineError, match=r"does not answer --help within 0 s"):
        read_build(str(path))
    assert not [each for each in psutil.process_iter(["cmdline"]) if str(path) in str(each.info["cmdline"])]


@pytest.mark.parametrize("reported", [1, 3, 5])
def test_probabilities_that_count_the_rest_twice_are_corrected(reported: int) -> None:
    true = [0.4, 0.3, 0.15, 0.1, 0.05]
    wrong = [math.log(each / (1 + sum(true[reported:]))) for each in true]
    top = [{"id": number, "logprob": each} for number, each in enumerate(wrong[:reported])]
    entry = normalized({"id": 4, "logprob": wrong[4], "top_logprobs": top})
    assert entry["logprob"] == pytest.approx(math.log(true[4]))
    assert [each["logprob"] for each in entry["top_logprobs"]] == pytest.approx([math.log(p) for p in true[:reported]])
