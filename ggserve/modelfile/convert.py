"""Convert a model file for the other engine. The model stays the same; weights are copied byte for byte.

A legacy GGML file becomes a GGUF file for llama.cpp (`legacy/to_gguf.py`). A llama GGUF file becomes one in the form of
autumn 2023, for ctransformers: byte-level BPE tokens become raw bytes, missing scores and token types are added, linear
rope scaling gets the key that ctransformers reads, and a tied output gets its own copy of the embedding.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ggserve.errors import ModelFileError
from ggserve.modelfile.accepts.ctransformers import ctransformers_objection, rope_scale
from ggserve.modelfile.file import read_model_file
from ggserve.modelfile.gguf import GGUFFile
from ggserve.modelfile.gguf_header import Field, ValueType
from ggserve.modelfile.gguf_writer import NewTensor, Plan, field_of, origin, plan_gguf, write_gguf
from ggserve.modelfile.legacy.ggml import GGMLFile
from ggserve.modelfile.legacy.to_gguf import plan_conversion
from ggserve.modelfile.token_spelling import TokenType, has_raw_tokens, plain_tokens, to_raw

_TOKENS = "tokenizer.ggml.tokens"
_SCORES = "tokenizer.ggml.scores"
_TYPES = "tokenizer.ggml.token_type"


def convert(
    source: Path,
    target: Path,
    *,
    model_type: str | None = None,
    chat_template: str | None = None,
    progress: bool = True,
    report: Callable[[float], object] | None = None,
) -> None:
    """Convert `source` to `target`: a legacy file to GGUF for llama.cpp, or a GGUF file to the form that ctransformers
    reads.

    `target` is written completely or not at all, and replaces an existing file. `model_type` and `chat_template`
    (Jinja2) are for legacy files, which do not contain them. `progress` shows a progress bar on stderr; `report`
    receives the fraction written, 0 to 1. Raises ModelFileError if the model would not run exactly, needs no
    conversion, or cannot be written.
    """
    file = read_model_file(source, model_type)
    if isinstance(file, GGMLFile):
        plan = plan_conversion(file, chat_template)
    else:
        assert isinstance(file, GGUFFile)
        plan = _plan(file)
    write_gguf(plan, target, progress=progress, report=report)


def _plan(gguf: GGUFFile) -> Plan:
    name = gguf.path.name
    if ctransformers_objection(gguf) is None:
        raise ModelFileError(f"{name}: needs no conversion: ctransformers runs it as it is")
    if gguf.architecture != "llama":
        raise ModelFileError(f"{name}: has architecture {gguf.architecture!r}; only llama files can be converted")
    changed = _changed_fields(gguf)
    fields = gguf.fields | changed
    sources = dict(gguf.tensors)
    if "output.weight" not in sources and "token_embd.weight" in sources:
        sources["output.weight"] = replace(sources["token_embd.weight"], name="output.weight")
    with gguf.path.open("rb") as file:
        original = file.read(gguf.data_offset)
    plan = plan_gguf(
        gguf.path,
        fields,
        [NewTensor(tensor.name, tensor.shape, tensor.type, tensor.nbytes, tensor) for tensor in sources.values()],
        encoded={key: original[f.start : f.end] for key, f in gguf.fields.items() if key not in changed},
        version=gguf.version,
        alignment=gguf.alignment,
    )
    reason = ctransformers_objection(plan.planned)
    if reason is not None:
        raise ModelFileError(f"{name}: cannot be converted for ctransformers: {reason}")
    return plan


def _changed_fields(gguf: GGUFFile) -> dict[str, Field]:
    """Return the metadata that the target adds or changes."""
    changed = origin(gguf.path, gguf.size)
    tokens = gguf.fields.get(_TOKENS)
    if gguf.get("tokenizer.ggml.model") == "gpt2" and tokens and tokens.item_type is ValueType.STRING:
        count = len(tokens.value)
        if _TYPES not in gguf.fields:
            types = np.full(count, TokenType.NORMAL, "<i4")
            changed[_TYPES] = field_of(types)
        elif gguf.fields[_TYPES].item_type not in (ValueType.INT32, ValueType.UINT32):
            raise ModelFileError(f"{gguf.path.name}: {_TYPES}: not an array of INT32")
        elif len(gguf.get(_TYPES)) != count:
            raise ModelFileError(f"{gguf.path.name}: {_TYPES}: {len(gguf.get(_TYPES))} entries for {count} tokens")
        if _SCORES not in gguf.fields:
            # Byte-level BPE ranks merges and ignores scores, but the loader requires one per token.
            changed[_SCORES] = field_of(np.zeros(count, "<f4"))
        if not has_raw_tokens(gguf):
            changed[_TOKENS] = replace(tokens, value=_raw_tokens(gguf))
    scale = rope_scale(gguf)
    if scale not in (None, 1.0) and "llama.rope.scale_linear" not in gguf.fields:
        changed["llama.rope.scale_linear"] = field_of(float(scale))
    return changed


def _raw_tokens(gguf: GGUFFile) -> list[bytes]:
    tokens = list(gguf.get(_TOKENS))
    index = 0
    try:
        for index, token in plain_tokens(gguf):
            tokens[index] = to_raw(token)
    except ValueError as error:
        problem = f"token {index}, {tokens[index]!r}: {error}"
        raise ModelFileError(f"{gguf.path.name}: {_TOKENS}: {problem}") from None
    return tokens


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path.name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, 2 after one line on stderr, or 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        "ggserve convert",
        description="Convert a legacy GGML file for llama.cpp, or a llama GGUF file for ctransformers.",
    )
    parser.add_argument("source", type=Path, metavar="IN")
    parser.add_argument("target", type=Path, metavar="OUT")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--model-type", help="model family of a legacy file that does not state it")
    parser.add_argument(
        "--chat-template", type=Path, metavar="FILE", help="Jinja2 chat template to add to a legacy file"
    )
    options = parser.parse_args(arguments)
    try:
        if os.path.lexists(options.target) and not options.force:
            raise ModelFileError(f"{options.target.name}: already exists; use --force to replace it")
        template = None if options.chat_template is None else _text(options.chat_template)
        convert(options.source, options.target, model_type=options.model_type, chat_template=template)
    except ModelFileError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
