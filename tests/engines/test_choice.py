"""The choice of `ENGINE=auto`, and its reason."""

import pytest

from ggserve.engines import choice
from ggserve.engines.choice import EngineWishes, choose_engine, engine_for_default_model
from ggserve.engines.speed import GAINS, Gain, llama_cpp_gain, measured_gain
from ggserve.errors import ModelFileError
from ggserve.hub.default import packaged_model
from ggserve.modelfile.file import read_model_file
from tests.conftest import FAMILY_FILES

BOTH = FAMILY_FILES / "llama.q8_0.v3.gguf"  # that both engines run
LEGACY = FAMILY_FILES / "llama.f16.bin"


@pytest.mark.parametrize("slots", [None, 1, 4])
def test_auto_takes_the_faster_engine_and_says_how_much_faster(slots):
    file = read_model_file(BOTH)
    gain = llama_cpp_gain(file, slots)
    assert gain == Gain(GAINS["Q8_0"][0][slots != 1], "Q8_0")  # the type of most of its bytes, and a small file
    name, reason = choose_engine(file, EngineWishes(parallel=slots))
    assert name == ("llama.cpp" if gain.counts else "ctransformers")
    assert f"{gain.factor:.1f} times as fast for Q8_0" in reason


def test_a_tie_goes_to_ctransformers(monkeypatch):
    monkeypatch.setitem(GAINS, "Q8_0", ((1.05, 1.05), (1.05, 1.05)))
    assert choose_engine(read_model_file(BOTH))[0] == "ctransformers"


def test_small_and_large_files_alone_and_together_are_told_apart():
    for kind, ((small, small_many), (large, large_many)) in GAINS.items():
        factors = [measured_gain(kind, size, slots).factor for size in (False, True) for slots in (1, 4)]
        assert factors == [small, small_many, large, large_many]


def test_an_engine_that_is_asked_for_runs_the_file_and_the_other_ones_gain_is_told(monkeypatch):
    file = read_model_file(BOTH)
    monkeypatch.setitem(GAINS, "Q8_0", ((2.0, 2.0), (2.0, 2.0)))
    name, reason = choose_engine(file, EngineWishes(engine="ctransformers"))
    assert name == "ctransformers"
    assert "llama.cpp would be 2.0 times as fast for Q8_0" in reason
    assert choose_engine(file, EngineWishes(engine="llama.cpp")) == ("llama.cpp", "ENGINE=llama.cpp is set")


def test_what_can_use_the_gpu_here_comes_first(monkeypatch):
    file = read_model_file(BOTH)
    wishes = EngineWishes(gpu_layers=1)
    monkeypatch.setattr(choice, "llama_cpp_uses_gpu", lambda wishes: False)
    monkeypatch.setattr(choice, "cuda_loads", lambda: True)
    assert choose_engine(file, wishes)[0] == "ctransformers"
    monkeypatch.setitem(GAINS, "Q8_0", ((0.5, 0.5), (0.5, 0.5)))
    monkeypatch.setattr(choice, "llama_cpp_uses_gpu", lambda wishes: True)
    for wanted in (EngineWishes(), wishes):
        assert choose_engine(file, wanted)[0] == "llama.cpp"
    assert choose_engine(file, EngineWishes(gpu_layers=0))[0] == "ctransformers"


def test_a_llama_server_of_the_users_own_decides_where_both_engines_run_the_file(monkeypatch, default_path):
    monkeypatch.setitem(GAINS, "Q8_0", ((0.5, 0.5), (0.5, 0.5)))
    wishes = EngineWishes(llama_server="/opt/llama-server")
    name, reason = choose_engine(read_model_file(BOTH), wishes)
    assert (name, reason) == ("llama.cpp", "LLAMA_SERVER=/opt/llama-server runs it")
    assert choose_engine(read_model_file(default_path), wishes)[0] == "ctransformers"  # which llama.cpp cannot run


@pytest.mark.parametrize(
    ("setting", "option"),
    [
        ("KV_CACHE_TYPE=q8_0", {"kv_cache_type": "q8_0"}),
        ("ROPE_SCALING=yarn", {"rope_scaling": "yarn"}),
        ("ROPE_FREQ_BASE=10000", {"rope_freq_base": 10_000.0}),
    ],
)
def test_a_setting_that_only_llama_cpp_has_decides_or_is_refused(setting, option, default_path):
    wishes = EngineWishes(**option)
    assert engine_for_default_model(wishes) == "llama.cpp"
    assert choose_engine(read_model_file(BOTH), wishes) == ("llama.cpp", f"{setting} needs it")
    name, reason = choose_engine(read_model_file(LEGACY), wishes)
    assert name == "llama.cpp"
    assert reason.startswith(f"{setting} needs it; a legacy GGML file")
    for path, wanted in ((BOTH, "ctransformers"), (LEGACY, "ctransformers"), (default_path, "auto")):
        with pytest.raises(ModelFileError, match=setting):
            choose_engine(read_model_file(path), EngineWishes(engine=wanted, **option))


def test_what_one_engine_cannot_run_the_other_gets(default_path):
    assert choose_engine(read_model_file(default_path))[0] == "ctransformers"
    original = packaged_model()
    assert original is not None
    assert choose_engine(read_model_file(original))[0] == "llama.cpp"
