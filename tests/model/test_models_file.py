"""`models.toml`: settings of single models, and mistakes in it by line and key."""

import math
import shutil
from pathlib import Path

import pytest

from ggserve.errors import ModelFileError
from ggserve.generation import SamplingParams
from ggserve.model.catalog import Catalog
from ggserve.model.gguf_model import GGUFModel
from ggserve.model.models_file import read_models_file
from tests.answers import answer
from tests.conftest import FAMILY_FILES
from tests.engines.tiny_models import TinyModel, decoder


def written(folder: Path, text: str) -> Path:
    path = folder / "models.toml"
    path.write_text(text)
    return path


def test_settings_belong_to_a_model_under_any_of_its_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copy(FAMILY_FILES / "llama.f16.v2.gguf", tmp_path / f"{name}.gguf")
    written(
        tmp_path,
        """
        ["A:latest"]
        context_length = 32
        mmproj_path = "sub/mmproj.gguf"
        aliases = ["GPT-4o", "text"]
        keep_alive = "5m"
        temperature = 0.2
        [nobody]
        keep_alive = -1
        pinned = true
        """,
    )
    catalog = Catalog(tmp_path)
    a, b = catalog.models()
    assert a.settings.options == {"context_length": 32, "mmproj_path": tmp_path / "sub/mmproj.gguf"}
    assert (a.settings.sampling, a.settings.keep_alive) == ({"temperature": 0.2}, 300)
    assert b.settings.options == {}
    assert catalog.find("gpt-4o").name == catalog.find("text:latest").name == "a"
    assert catalog.unknown_settings() == ["nobody"]
    nobody = read_models_file(tmp_path / "models.toml")["nobody"]
    assert (nobody.keep_alive, nobody.pinned) == (math.inf, True)


def test_the_type_of_a_legacy_file_that_does_not_prove_its_family_makes_it_a_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(FAMILY_FILES / "gpt2.q4_0.bin", tmp_path / "old.bin")
    assert Catalog(tmp_path).models() == []
    assert "not listed: old.bin: set MODEL_TYPE: the file could be any of" in caplog.text
    written(tmp_path, '[old]\nmodel_type = "gpt2"\ncontext_length = 32\naliases = ["older"]')
    listed = Catalog(tmp_path).find("older")
    assert (listed.name, listed.kind, listed.facts and listed.facts.architecture) == ("old", "generation", "gpt2")
    model = GGUFModel(
        listed.path, **{"threads": 1, "parallel": 1, "cache_dir": tmp_path / "cache", **listed.settings.options}
    )
    assert answer(model.complete([5, 6, 7], SamplingParams(max_tokens=3, ignore_eos=True)))[1].completion_tokens == 3
    model.close()


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('[a]\nengine = "auto"\ncontext = 5', 3, "context of 'a': no such setting"),
        ('[a]\n\n[b]\nparallel = "many"', 4, "parallel of 'b'"),
        ("[a]\n[b]\n# context_length\ncontext_length = 2", 4, "context_length of 'b'"),
        ('["x/y:Q4_K_M"]\ntemperature = 9', 2, "temperature of 'x/y:Q4_K_M'"),
        ('[a]\nkeep_alive = "soon"', 2, "keep_alive of 'a'"),
        ('[a]\nengine = "vllm"', 2, "engine of 'a'"),
        ("[a]\nqueue_size = 5", 2, "queue_size of 'a': no such setting"),
        ('[a]\naliases = ["x"]\n[b]\naliases = ["X"]', 4, "'x' already means 'a'"),
        ("pinned = true", 1, "belongs in a model's table"),
        ("[a]\npinned = = true", 2, "Invalid value"),
    ],
)
def test_a_mistake_is_named_by_line_and_key(tmp_path: Path, text: str, line: int, said: str) -> None:
    with pytest.raises(ModelFileError) as error:
        Catalog(written(tmp_path, text).parent)
    assert f"line {line}" in str(error.value)
    assert said in str(error.value)


def test_defaults_of_a_request_come_from_the_file_and_what_stands_above_and_below_it(tmp_path: Path) -> None:
    tiny = TinyModel(tmp_path / "tiny.gguf", "qwen2")
    tiny.byte_level_vocabulary()
    decoder(tiny, biases=True)
    tiny.writer.add_float32("general.sampling.temp", 0.5)
    tiny.writer.add_float32("general.sampling.top_p", 7.0)  # makes no sense
    tiny.writer.add_int32("general.sampling.top_k", 20)
    model = GGUFModel(
        tiny.write(),
        threads=1,
        parallel=1,
        context_length=32,
        sampling={"temperature": 0.1},
        fallback_sampling={"temperature": 1.0, "top_k": 9, "min_p": 0.25},
    )
    model.close()
    assert model.sampling == {"temperature": 0.1, "top_k": 20, "min_p": 0.25}
    asked = SamplingParams.of({"top_k": 3, "seed": None}).over(model.sampling)
    assert (asked.temperature, asked.top_k, asked.min_p, asked.top_p) == (0.1, 3, 0.25, 0.95)
    assert SamplingParams(temperature=0).over(model.sampling).temperature == 0
