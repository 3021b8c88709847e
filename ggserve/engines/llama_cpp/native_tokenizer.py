"""Keeps llama.cpp from reading a grammar with the tokenizer of another model.

llama.cpp keeps one tokenizer for grammars in the process, identified by the address of its vocabulary. Nothing guards
it: two models that begin a grammar at the same time can leave it with the tokens of one and the address of the other,
or free it twice. So the models of a process begin their grammars in turn.

A model that is loaded after another was freed may have its vocabulary at the same address, and would get the other's
tokenizer. So before a model is freed, a grammar of a tiny model that is never freed replaces what llama.cpp keeps.
"""

import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from ggserve import temporary
from ggserve.engines.contract import EngineOptions
from ggserve.engines.llama_cpp.listener import PrivateListener
from ggserve.engines.llama_cpp.transport import ServerPlan
from ggserve.errors import GenerationError

LoadServer = Callable[[ServerPlan, PrivateListener], Any]

_WIDTH = 32
_TOKENS = ("<end>", "a")
_GRAMMAR = '%llguidance {}\nstart: "a"\n'
_U32, _I32, _F32, _STRING, _ARRAY = 4, 5, 6, 8, 9  # types of a GGUF file's values


class NativeTokenizer:
    """The part of llama.cpp's state that belongs to the grammars of one model."""

    def __init__(self, load: LoadServer) -> None:
        self._load = load
        self._used = False

    @contextmanager
    def begin(self) -> Iterator[Callable[[], None]]:
        """Run a grammar of the model. Blocks until those of other models have begun. Others wait until the yielded
        function is called, or the block ends."""
        self._used = True
        with ExitStack() as turn:
            turn.enter_context(self._turn())
            yield turn.close

    def forget(self) -> None:
        """Make llama.cpp forget the model, which is about to be freed. Blocks until the grammars of other models have
        begun. Raises EngineError."""
        if self._used:
            with self._turn():
                if not _blank:
                    _blank.append(_load_blank(self._load))
                _read_grammar(_blank[0][0])

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Hold a turn in this block, in which only this model begins grammars, even several at once."""
        with _queue, _changed:
            _changed.wait_for(lambda: all(other is self for other in _beginning))
            _beginning.append(self)
        try:
            yield
        finally:
            with _changed:
                _beginning.remove(self)
                _changed.notify_all()


_queue = threading.Lock()  # held by the next in turn, so that a busy model does not keep others waiting
_changed = threading.Condition()
_beginning: list[NativeTokenizer] = []  # one model, once for each of its grammars that begin
_blank: list[tuple[Any, PrivateListener]] = []  # the tiny model, once it is loaded


def _load_blank(load: LoadServer) -> tuple[Any, PrivateListener]:
    listener = PrivateListener()
    try:
        with TemporaryDirectory(prefix=temporary.prefix()) as folder:
            path = Path(folder, "blank.gguf")
            path.write_bytes(_blank_model())
            options = EngineOptions(context_length=_WIDTH, prompt_cache=0, gpu_layers=0)
            return load(ServerPlan(path=path, options=options), listener), listener
    except OSError as error:
        listener.close()
        raise GenerationError(f"grammars need a file in {error.filename}: {error.strerror}") from error


def _read_grammar(server: Any) -> None:
    chunks: list[bytes] = []
    body = {"prompt": [1], "n_predict": 1, "grammar": _GRAMMAR, "stream": True}
    server.handle_completions(orjson.dumps(body), lambda chunk: chunks.append(chunk))
    if any("error" in orjson.loads(chunk) for chunk in chunks):
        raise GenerationError(f"llama.cpp does not accept a grammar: {chunks[0].decode()}")


def _blank_model() -> bytes:
    """Write a GGUF file of a LLaMA model of one layer and two tokens, with zero weights: 30 kB."""
    fields = {
        "general.architecture": _string("llama"),
        "llama.context_length": _number(_WIDTH),
        "llama.embedding_length": _number(_WIDTH),
        "llama.feed_forward_length": _number(_WIDTH),
        "llama.rope.dimension_count": _number(_WIDTH),
        "llama.block_count": _number(1),
        "llama.attention.head_count": _number(1),
        "llama.attention.layer_norm_rms_epsilon": struct.pack("<If", _F32, 1e-5),
        "tokenizer.ggml.model": _string("gpt2"),
        "tokenizer.ggml.pre": _string("default"),
        "tokenizer.ggml.tokens": _array(_STRING, [_text(token) for token in _TOKENS]),
        "tokenizer.ggml.token_type": _array(_I32, [struct.pack("<i", kind) for kind in (3, 1)]),
        "tokenizer.ggml.merges": _array(_STRING, []),
        "tokenizer.ggml.bos_token_id": _number(0),
        "tokenizer.ggml.eos_token_id": _number(0),
    }
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    shapes = {
        "token_embd": (_WIDTH, len(_TOKENS)),
        "output_norm": (_WIDTH,),
        **{f"blk.0.{name}": (_WIDTH,) for name in ("attn_norm", "ffn_norm")},
        **{f"blk.0.{name}": (_WIDTH, _WIDTH) for name in square},
    }
    header = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(fields))
    header += b"".join(_text(key) + value for key, value in fields.items())
    size = 0
    for name, shape in shapes.items():
        header += _text(f"{name}.weight") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, size)
        size += 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
    return header + bytes(-len(header) % 32) + bytes(size)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _string(text: str) -> bytes:
    return struct.pack("<I", _STRING) + _text(text)


def _number(value: int) -> bytes:
    return struct.pack("<II", _U32, value)


def _array(kind: int, items: list[bytes]) -> bytes:
    return struct.pack("<IIQ", _ARRAY, kind, len(items)) + b"".join(items)
