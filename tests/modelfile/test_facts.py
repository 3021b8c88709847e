"""The facts of a file are those of its header, whatever its format."""

from pathlib import Path

import pytest

from ggserve.modelfile.facts import model_facts
from ggserve.modelfile.file import read_model_file
from tests.conftest import FAMILY_FILES


def test_the_default_model(default_path: Path) -> None:
    facts = model_facts(read_model_file(default_path))
    assert (facts.format, facts.architecture, facts.quantization) == ("gguf", "llama", "Q4_1")
    assert 134e6 < facts.parameters < 165e6
    assert facts.metadata["llama.block_count"] == 30
    assert facts.chat_template is not None
    assert "tokenizer.chat_template" not in facts.metadata


@pytest.mark.parametrize("path", sorted(FAMILY_FILES.glob("gptj*.bin"))[:1], ids=lambda path: path.name)
def test_a_legacy_file(path: Path) -> None:
    facts = model_facts(read_model_file(path, "gptj"))
    assert (facts.format, facts.architecture) == ("ggml", "gptj")
    assert facts.parameters > 1000
