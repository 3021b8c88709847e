"""Tells models that only make embeddings from those that generate text."""

from modelfile.gguf import GGUFFile

# Architectures that look both ways: they have no next token to tell.
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


def is_embedding_model(file: GGUFFile) -> bool:
    """By architecture, by attention that is not causal, or by a way of pooling, which converters write for
    embedding models only."""
    arch = file.architecture
    return arch in _ENCODERS or file.get(f"{arch}.attention.causal") is False or has_pooling(file)


def has_pooling(file: GGUFFile) -> bool:
    """Whether the file says how token vectors become one vector."""
    return bool(file.get(f"{file.architecture}.pooling_type", 0))
