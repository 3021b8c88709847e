"""Chat templates by their names: those of a model file, and for files that carry none those that the families' chat
models were trained with.

Each is a Jinja2 file in `templates`. Where a turn does not end by a token, the texts that end it are here.
"""

from pathlib import Path

from ggserve.errors import TemplateError
from ggserve.modelfile.file import ModelFile, chat_template
from ggserve.tokenizer.vocabulary import Metadata

Template = tuple[str, tuple[str, ...]]  # source, and the texts that end its answers

_FOLDER = Path(__file__).parent / "templates"

_STOP_TEXTS: dict[str, tuple[str, ...]] = {
    "falcon": ("\nUser:", "\nAssistant:"),
    "alpaca": ("\n### Instruction:", "\n### Response:"),
    "chatml": ("<|im_end|>", "<|im_start|>"),
    "starchat": ("<|end|>", "<|user|>", "<|system|>"),
    "dolly": ("### End", "### Instruction:"),
    "vicuna": ("USER:", "</s>"),
    "llama-2": ("</s>", "[INST]"),
}
_SAME = {"wizardcoder": "alpaca", "mpt-chat": "chatml", "falcon-instruct": "falcon", "llama-2-chat": "llama-2"}
NAMES = tuple(sorted(_STOP_TEXTS.keys() | _SAME.keys()))


# Legacy files carry no template. What their tokens prove, the first that fits: of the family, with these tokens.
_PROVEN: tuple[tuple[str, str, frozenset[bytes]], ...] = (
    ("mpt", "chatml", frozenset([b"<|im_start|>", b"<|im_end|>"])),
    ("starcoder", "starchat", frozenset([b"<|system|>", b"<|user|>", b"<|assistant|>", b"<|end|>"])),
    ("dolly-v2", "dolly", frozenset([b"### End", b"### Instruction:"])),
    ("falcon", "falcon", frozenset()),
)


def family_template(metadata: Metadata) -> Template | None:
    """Source and stop texts of the template that a legacy file's family and tokens prove; None if they prove none."""
    texts = set(metadata.get("tokenizer.ggml.tokens", ()))
    for family, name, tokens in _PROVEN:
        if metadata.get("general.architecture") == family and tokens <= texts:
            return read_chat_template(name)
    return None


def read_chat_template(chosen: str) -> Template:
    """Source and stop texts of the template that CHAT_TEMPLATE means, a name or a file. TemplateError if neither."""
    if chosen in NAMES:
        name = _SAME.get(chosen, chosen)
        return (_FOLDER / f"{name}.jinja").read_text("utf-8"), _STOP_TEXTS[name]
    try:
        return Path(chosen).expanduser().read_text("utf-8"), ()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TemplateError(
            f"CHAT_TEMPLATE={chosen}: neither a file ({reason}) nor one of {', '.join(NAMES)}"
        ) from None


def chosen_template(file: ModelFile, chosen: str) -> Template:
    """The same where CHAT_TEMPLATE may name one of the file's templates too."""
    own = chat_template(file, chosen)
    return read_chat_template(chosen) if own is None else (own, ())
