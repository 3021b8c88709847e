"""Prints what a model file is: `ggserve inspect FILE`. Reads only its header."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ggserve.chat.format import shown
from ggserve.chat.reading import format_of
from ggserve.engines.choice import choose_engine
from ggserve.errors import ModelFileError
from ggserve.hub.pick import human_size
from ggserve.modelfile.accepts.ctransformers import ctransformers_objection
from ggserve.modelfile.accepts.llama_cpp import llama_cpp_objection
from ggserve.modelfile.facts import weights
from ggserve.modelfile.file import ModelFile, chat_template, read_model_file
from ggserve.modelfile.gguf import GGUFFile
from ggserve.modelfile.legacy.ggml import GGMLFile
from ggserve.modelfile.legacy.to_gguf import conversion_objection

_VOCABULARIES = {
    "llama": "SentencePiece",
    "gpt2": "byte-level BPE",
    "bert": "WordPiece",
    "t5": "Unigram",
    "rwkv": "RWKV",
}
_SPECIAL = "tokenizer.ggml."
_SPECIAL_END = "_token_id"

Facts = Iterator[tuple[str, str]]  # a feature, and its form in this file


def describe(path: Path, model_type: str | None = None) -> Facts:
    """Return the facts worth knowing about the file. Raises ModelFileError if it cannot be used."""
    return _describe(read_model_file(path, model_type))


def _describe(gguf: ModelFile) -> Facts:
    yield "file", gguf.path.name
    yield "size", human_size(gguf.size) + (f" in {len(gguf.paths)} files" if len(gguf.paths) > 1 else "")
    yield "format", gguf.format
    if isinstance(gguf, GGUFFile):
        yield "architecture", gguf.architecture or "not said"
        yield "name", str(gguf.get("general.name", "not said"))
    else:
        yield "family", gguf.architecture
    yield "weights", _weights(gguf)
    context = gguf.get(f"{gguf.architecture}.context_length")
    yield "context length", "not said" if context is None else f"{context} tokens"
    yield "vocabulary", _vocabulary(gguf)
    yield "special tokens", ", ".join(_special_tokens(gguf)) or "none said"
    yield "chat template", _template(gguf)
    yield from _chat_format(gguf)
    yield from _engines(gguf)


def _weights(gguf: ModelFile) -> str:
    """Return the number of weights, and their types, the one that takes most bytes first."""
    if not gguf.tensors:
        return "none: the file contains only a vocabulary"
    count, nbytes = weights(gguf)
    kinds = Counter(tensor.type_name for tensor in gguf.tensors.values())
    parts = [f"{name} ({kinds[name]} tensors, {human_size(size)})" for name, size in nbytes.most_common()]
    return f"{count:,} in {', '.join(parts)}"


def _vocabulary(gguf: ModelFile) -> str:
    model, tokens = gguf.get("tokenizer.ggml.model"), gguf.get("tokenizer.ggml.tokens")
    if model is None and tokens is None:
        return "none"
    kind = f"{model} ({_VOCABULARIES[model]})" if model in _VOCABULARIES else str(model)
    size = len(tokens) if isinstance(tokens, list) else 0
    return f"{kind}, {size} tokens, pre-tokenizer {gguf.get('tokenizer.ggml.pre', 'not said')}"


def _special_tokens(gguf: ModelFile) -> Iterator[str]:
    tokens = gguf.get("tokenizer.ggml.tokens")
    for key in gguf.metadata_keys():
        if key.startswith(_SPECIAL) and key.endswith(_SPECIAL_END):
            name, token = key.removeprefix(_SPECIAL).removesuffix(_SPECIAL_END), gguf.get(key)
            yield f"{name} {token} {_token_text(tokens, token)}"


def _token_text(tokens: Any, index: Any) -> str:
    if not (isinstance(tokens, list) and isinstance(index, int) and 0 <= index < len(tokens)):
        return "(no such token)"
    token = tokens[index]
    return token.decode(errors="replace") if isinstance(token, bytes) else str(token)


def _template(gguf: ModelFile) -> str:
    template = chat_template(gguf)
    if template is None:
        return "none"
    lines = template.strip().splitlines() or [""]
    first = lines[0] if len(lines[0]) <= 60 else lines[0][:60] + "…"
    return f"{len(template)} characters: {first}"


def _chat_format(gguf: ModelFile) -> Facts:
    """Return the properties that are read off the chat template."""
    template = chat_template(gguf)
    if template is None:
        return
    form = format_of(template)
    thought, calls = form.thought, form.calls
    yield "thoughts", f"{thought.open!r} ... {thought.close!r}" if thought else "no known format"
    if calls is None:
        yield "tool calls", "no known format: tools are described in ggserve's own format"
    else:
        yield "tool calls", shown(f"{calls.first!r} NAME {calls.after_name!r} {calls.arguments.syntax} {calls.last!r}")
    if form.refused:
        yield "refuses", ", ".join(name.replace("_", " ") for name in sorted(form.refused))


def _engines(gguf: ModelFile) -> Facts:
    """Return which engines run the file, and the reasons why others do not."""
    if isinstance(gguf, GGMLFile):
        old, new, runs = (
            None,
            conversion_objection(gguf),
            "runs it after conversion to GGUF; ENGINE=llama.cpp does both",
        )
    else:
        assert isinstance(gguf, GGUFFile)
        old, new, runs = ctransformers_objection(gguf), llama_cpp_objection(gguf), "runs it"
    yield "ctransformers", f"does not run it: {old}" if old else "runs it exactly as it is"
    yield "llama.cpp", f"does not run it: {new}" if new else runs
    yield "ENGINE=auto", _choice(gguf)


def _choice(gguf: ModelFile) -> str:
    try:
        name, reason = choose_engine(gguf)
    except ModelFileError:
        return "none"
    return f"{name}: {reason}"


def _printable(text: str) -> str:
    """Return the text without anything that a terminal would interpret."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def main(arguments: list[str] | None = None) -> int:
    """Print the facts or, with `--template`, only the chat template. Returns the exit code: 2 if the file cannot be
    used."""
    parser = argparse.ArgumentParser(prog="ggserve inspect", description=__doc__)
    parser.add_argument("file", type=Path, help="a model file")
    parser.add_argument("--template", action="store_true", help="print only the file's chat template")
    parser.add_argument("--model-type", help="model family of a legacy file that does not state it")
    options = parser.parse_args(arguments)
    try:
        if options.template:
            template = chat_template(read_model_file(options.file, options.model_type))
            if template is None:
                raise ModelFileError(f"{options.file.name}: has no chat template")
            print(_printable(template))
        else:
            for what, how in describe(options.file, options.model_type):
                print(f"{what:<16}{_printable(' '.join(how.split()))}")
    except ModelFileError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
