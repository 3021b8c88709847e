"""Models that follow each other in one process, as in MODELS_DIR: each answers in its own tokens."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.engines.tiny_models import TinyModel, qwen2

PROGRAM = """
import json, sys
from ggserve import GGUFModel, SamplingParams
from ggserve.generation import schema_grammar
from tests.answers import answer

properties = {"name": {"enum": ["Ann", "the other"]}, "old": {"type": "boolean"}}
grammar = schema_grammar({"type": "object", "properties": properties, "required": ["name", "old"]})
for turn in range(12):
    model = GGUFModel(sys.argv[1 + turn % 3], engine="llama.cpp", threads=1, parallel=1, context_length=256)
    for seed in range(2):
        text, _ = answer(model.complete("the", SamplingParams(max_tokens=100, seed=seed, grammar=grammar)))
        found = json.loads(text)
        assert found["name"] in ("Ann", "the other") and isinstance(found["old"], bool), text
    model.close()
print("all valid")
"""


def test_a_grammar_is_read_with_the_tokens_of_the_model_that_answers(tmp_path: Path):
    paths = []
    for unused in (0, 100, 1000):
        model = TinyModel(tmp_path / f"{unused}.gguf", "qwen2")
        qwen2(model, unused=unused)
        paths.append(str(model.write()))
    done = subprocess.run([sys.executable, "-c", PROGRAM, *paths], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "all valid\n"), done.stderr
