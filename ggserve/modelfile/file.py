"""Model files of any format: a common protocol, the function that reads them, and what a file says about its
purpose."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ggserve.errors import ModelFileError
from ggserve.modelfile.gguf import read_gguf
from ggserve.modelfile.gguf_header import TensorInfo
from ggserve.modelfile.legacy.ggml import is_ggml, read_ggml

# Encoder architectures with bidirectional attention, which cannot generate text.
_ENCODERS = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "t5encoder",
    }
)

_POOLING_RANK = 4
UNSPECIFIED_POOLING = 2**32 - 1
"""The `pooling_type` of files that leave it to the program, the same as none: -1 as an unsigned number."""


class ModelFile(Protocol):
    """A checked header with GGUF's metadata keys, whatever the format. Numeric arrays are numpy arrays; string arrays
    are list[bytes]."""

    path: Path
    size: int  # bytes

    @property
    def paths(self) -> list[Path]:
        """All files of the model; `path` is the first."""
        ...

    @property
    def format(self) -> str:
        """The format and its version, such as "GGUF version 3"."""
        ...

    @property
    def architecture(self) -> str:
        """`general.architecture`, or a legacy file's family; "" if the file does not say."""
        ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The tensors by name, in file order."""
        ...

    def metadata_keys(self) -> Iterable[str]:
        """Return the metadata keys."""
        ...

    def get(self, key: str, default: Any = None, /) -> Any:
        """Return the value of `key`, or `default`."""
        ...


def read_model_file(path: str | Path, model_type: str | None = None) -> ModelFile:
    """Read the header of a GGUF or legacy GGML file. `model_type` sets the family of a legacy file; by default, it is
    detected.

    Raises ModelFileError unless the file is valid and complete.
    """
    return read_ggml(path, model_type) if is_ggml(path) else read_gguf(path)


def chat_template(file: ModelFile, name: str | None = None) -> str | None:
    """Return the file's default chat template, or the one called `name`; None if there is none. Raises ModelFileError
    if it is not a string."""
    key = "tokenizer.chat_template" + (f".{name}" if name else "")
    template = file.get(key)
    if template is not None and not isinstance(template, str):
        raise ModelFileError(f"{file.path.name}: {key} is not a string")
    return template


def is_embedding_model(file: ModelFile) -> bool:
    """Return whether the model only makes embeddings: by its architecture, its non-causal attention, or its pooling
    type, which converters write for embedding models only."""
    arch = file.architecture
    return arch in _ENCODERS or file.get(f"{arch}.attention.causal") is False or has_pooling(file)


def is_reranker(file: ModelFile) -> bool:
    """Return whether the model is a reranker (llama.cpp's LLAMA_POOLING_TYPE_RANK)."""
    return bool(file.get(f"{file.architecture}.pooling_type", 0) == _POOLING_RANK)


def has_pooling(file: ModelFile) -> bool:
    """Return whether the file says how token vectors are pooled into one vector."""
    return file.get(f"{file.architecture}.pooling_type", 0) not in (0, UNSPECIFIED_POOLING)
