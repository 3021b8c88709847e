"""Scaled rotary positions on both transports of llama.cpp."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ggserve.errors import ContextOverflow, EngineError, ModelFileError
from ggserve.generation import SamplingParams
from ggserve.model.gguf_model import GGUFModel
from ggserve.modelfile import memory
from tests.answers import answer
from tests.conftest import FAMILY_FILES, serve
from tests.engines.tiny_models import CONTEXT, write_tiny_model
from tests.llama_server import launcher

ASCII = frozenset(range(40, 120))  # tokens of printable bytes; in some builds, others end an answer
GREEDY = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True, allowed_token_ids=ASCII)
SHORT = [5 + (7 * number) % 90 for number in range(300)]
LONG = [5 + (7 * number) % 90 for number in range(900)]  # tokens, more than the model was trained on
BASE = {"rope_freq_base": 500_000.0}


@pytest.fixture(scope="module", params=["qwen2", "llama", "phi3"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"), request.param)


@contextmanager
def loaded(path: Path, child: Path | None = None, **options: Any) -> Iterator[GGUFModel]:
    """The model on llama.cpp in this process, or in a child process that is started from the folder `child`."""
    server = str(launcher(child)) if child else "off"
    model = GGUFModel(path, engine="llama.cpp", threads=1, llama_server=server, **{"parallel": 1, **options})
    try:
        yield model
    finally:
        model.close()


def scores(model: GGUFModel, prompt: list[int]) -> tuple[float, ...]:
    """The log probabilities of a few tokens after a prompt."""
    return asyncio.run(model.engine.score(prompt, [[9, 10]])).logprobs[0]


@pytest.mark.parametrize(
    ("parallel", "options"),
    [
        (1, {"rope_scaling": "yarn"}),
        (3, {"rope_scaling": "yarn"}),
        (3, {"rope_scaling": "linear"}),
        (3, {"rope_scaling": "yarn", "rope_scale": 4.0, "yarn_orig_ctx": CONTEXT // 2, **BASE}),
        (1, BASE),
    ],
)
def test_both_transports_answer_a_prompt_longer_than_the_training_in_the_same_way(
    path: Path, parallel: int, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_OWN_CACHES", 0)  # three slots share one cache
    with (
        loaded(path, context_length=2 * CONTEXT, parallel=parallel, **options) as inside,
        loaded(path, tmp_path, context_length=2 * CONTEXT, parallel=parallel, **options) as child,
    ):
        for model in (inside, child):
            assert model.engine.context_length == 2 * CONTEXT
            with pytest.raises(ContextOverflow):
                answer(model.complete(LONG + SHORT, GREEDY))
        assert answer(inside.complete(LONG, GREEDY))[0] == answer(child.complete(LONG, GREEDY))[0]
        full = LONG + SHORT[: 2 * CONTEXT - len(LONG) - 8]
        assert answer(inside.complete(full, GREEDY))[1].completion_tokens == 8


def test_a_factor_of_1_changes_nothing_and_every_other_setting_does(path: Path) -> None:
    def found(**options: Any) -> tuple[float, ...]:
        with loaded(path, context_length=CONTEXT, **options) as model:
            return scores(model, SHORT)

    plain = found()
    for scaling in ("none", "linear", "yarn"):
        assert found(rope_scaling=scaling) == plain
    assert found(rope_scaling="linear", rope_scale=1.0) == plain
    scaled = [found(rope_scaling=scaling, rope_scale=2.0) for scaling in ("linear", "yarn")]
    assert len({plain, *scaled, found(**BASE)}) == 4


def test_the_default_context_is_the_scaled_one(path: Path) -> None:
    with loaded(path, rope_scaling="yarn", rope_scale=3.0) as model:
        assert model.engine.context_length == 3 * CONTEXT
        answer(model.complete(LONG, GREEDY))


@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize("base", [100.0, 1e12])
@pytest.mark.parametrize("trained", [8, 1 << 20])
def test_the_least_and_greatest_settings_answer(scale: float, base: float, trained: int, tmp_path: Path) -> None:
    options = {"rope_scale": scale, "rope_freq_base": base, "yarn_orig_ctx": trained, "context_length": 600}
    for scaling in ("yarn", "linear"):
        with loaded(write_tiny_model(tmp_path, "qwen2"), rope_scaling=scaling, **options) as model:
            expected = min(600, trained * scale)
            assert model.engine.context_length == expected
            prompt = SHORT if expected == 600 else [9]
            assert answer(model.complete(prompt, SamplingParams(max_tokens=4, temperature=0)))[1].completion_tokens > 0


def test_a_draft_model_stays_a_help_beyond_the_training(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path, "qwen2")
    options = {"context_length": 2 * CONTEXT, "rope_scaling": "yarn"}
    with loaded(path, **options) as plain, loaded(path, draft_model=path, **options) as guessed:
        assert answer(plain.complete(LONG, GREEDY))[0] == answer(guessed.complete(LONG, GREEDY))[0]


def test_a_saved_prompt_is_of_its_rotation(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path, "qwen2")

    def cached(**options: Any) -> int:
        saved = {"prompt_cache_dir": tmp_path / "states", "context_length": CONTEXT}
        with loaded(path, **saved, **options) as model:
            return answer(model.complete(SHORT, GREEDY))[1].cached_tokens

    twice = [{"rope_scaling": scaling, "rope_scale": 2.0} for scaling in ("yarn", "linear")]
    for options in ({}, *twice, BASE):
        assert cached(**options) == 0
        assert cached(**options) > 250


def test_the_flags_of_a_llama_server_have_settings(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path, "qwen2")
    flags = {"--rope-scaling": "ROPE_SCALING", "--rope-freq-scale": "ROPE_SCALE", "--yarn-orig-ctx": "YARN_ORIG_CTX"}
    for flag, setting in flags.items():
        with pytest.raises(EngineError, match=f"{flag} is set by ggserve itself; set {setting} instead"):
            GGUFModel(path, llama_server=str(launcher(tmp_path)), llama_args=f"{flag} 1", context_length=64)


@pytest.mark.parametrize("name", ["gpt2.q4_0", "mpt.q8_0", "replit.q8_0", "starcoder.q4_0"])
def test_a_legacy_family_without_rotary_positions_takes_no_setting(name: str, tmp_path: Path) -> None:
    path, family = FAMILY_FILES / f"{name}.bin", name.partition(".")[0]
    with pytest.raises(ModelFileError, match=r"ROPE_SCALING=yarn cannot be used: .* no rotary positions"):
        GGUFModel(path, rope_scaling="yarn", model_type=family, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()  # nothing was converted


def test_a_server_says_the_longer_context_everywhere(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path, "qwen2")
    settings = {"ROPE_SCALING": "yarn", "CONTEXT_LENGTH": str(2 * CONTEXT), "MODEL_PATH": str(path)}
    with serve(tmp_path / "logs", **settings) as server:
        (listed,) = httpx.get(f"{server.url}/v1/models").json()["data"]
        assert listed["context_length"] == listed["max_model_len"] == 2 * CONTEXT
        properties = httpx.get(f"{server.url}/props").json()
        assert properties["default_generation_settings"]["n_ctx"] == 2 * CONTEXT
        log = server.log("model.log")
        assert f"context {2 * CONTEXT} tokens" in log
        assert f"RoPE: yarn scaling of {CONTEXT} tokens by 2" in log
        body = {"prompt": LONG, "max_tokens": 4, "temperature": 0, "ignore_eos": True}
        usage = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).json()["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len(LONG), 4)
