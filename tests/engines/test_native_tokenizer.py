"""Several models in one process, as in MODELS_DIR: each answers in its own tokens."""

import subprocess
import sys
from threading import Event, Thread
from unittest.mock import Mock

import pytest

from ggserve.engines.llama_cpp.native_tokenizer import NativeTokenizer
from tests.conftest import ROOT
from tests.engines.tiny_models import TinyModel, qwen2
from tests.processes import PATIENCE

HEAD = """
import json, sys
from threading import Barrier, Thread
from ggserve import GGUFModel, SamplingParams
from ggserve.generation import schema_grammar
from tests.answers import answer

properties = {"name": {"enum": ["Ann", "the other"]}, "old": {"type": "boolean"}}
grammar = schema_grammar({"type": "object", "properties": properties, "required": ["name", "old"]})
valid = 0

def load(path):
    return GGUFModel(path, engine="llama.cpp", threads=1, parallel=1, context_length=256)

def ask(model, seed):
    global valid
    text, _ = answer(model.complete("the", SamplingParams(max_tokens=100, seed=seed, grammar=grammar)))
    found = json.loads(text)
    assert found["name"] in ("Ann", "the other") and isinstance(found["old"], bool), text
    valid += 1
"""

FOLLOWING = """
for turn in range(12):
    model = load(sys.argv[1 + turn % 3])
    for seed in range(2):
        ask(model, seed)
    model.close()
print(valid, "valid")
"""

OVERLAPPING = """
models = [load(path) for path in sys.argv[1:]]
together = Barrier(len(models))

def ask_at_once(model):
    for seed in range(8):
        together.wait()
        ask(model, seed)

threads = [Thread(target=ask_at_once, args=(model,)) for model in models]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for path, model in zip(sys.argv[2:], models):  # each is freed while others are there, and one follows it
    model.close()
    next_model = load(path)
    ask(next_model, 0)
    ask(models[-1], 1)
    next_model.close()
models[-1].close()
print(valid, "valid")
"""


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Models whose vocabularies differ in size."""
    paths = []
    for unused in (0, 100, 1000):
        model = TinyModel(tmp_path_factory.mktemp("models") / f"{unused}.gguf", "qwen2")
        qwen2(model, unused=unused)
        paths.append(str(model.write()))
    return paths


@pytest.mark.parametrize(("program", "valid"), [(FOLLOWING, 24), (OVERLAPPING, 28)], ids=["following", "overlapping"])
def test_a_grammar_is_read_with_the_tokens_of_the_model_that_answers(paths: list[str], program: str, valid: int):
    command = [sys.executable, "-c", HEAD + program, *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, f"{valid} valid\n"), done.stderr


def test_one_model_at_a_time_begins_grammars():
    one, other = NativeTokenizer(Mock()), NativeTokenizer(Mock())
    has_begun = Event()

    def begin_other() -> None:
        with other.begin():
            has_begun.set()

    thread = Thread(target=begin_other)
    with one.begin() as first_has, one.begin() as second_has:  # its own do not wait for each other
        thread.start()
        first_has()
        assert not has_begun.wait(0.1)
        second_has()
        assert has_begun.wait(PATIENCE)  # although the answers of the one go on
    thread.join()
