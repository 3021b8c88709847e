"""Chat templates by name: those of a model file, and for files without one those that the families' chat models were
trained with.

Each is a Jinja2 file in `templates`. If turns do not end with a token, the texts that end them are here.
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


# Legacy files carry no template. The first of these applies whose family and tokens the file has.
_PROVEN: tuple[tuple[str, str, frozenset[bytes]], ...] = (
    ("mpt", "chatml", frozenset([b"<|im_start|>", b"<|im_end|>"])),
    ("starcoder", "starchat", frozenset([b"<|system|>", b"<|user|>", b"<|assistant|>", b"<|end|>"])),
    ("dolly-v2", "dolly", frozenset([b"### End", b"### Instruction:"])),
    ("falcon", "falcon", frozenset()),
)


def family_template(metadata: Metadata) -> Template | None:
    """Return the source and stop texts of the template that a legacy file's family and tokens prove, or None."""
    texts = set(metadata.get("tokenizer.ggml.tokens", ()))
    for family, name, tokens in _PROVEN:
        if metadata.get("general.architecture") == family and tokens <= texts:
            return read_chat_template(name)
    return None


def read_chat_template(chosen: str) -> Template:
    """Return the source and stop texts of the template that CHAT_TEMPLATE names, built in or a file. Raises
    TemplateError if it is neither."""
    if chosen in NAMES:
        name = _SAME.get(chosen, chosen)
        return (_FOLDER / f"{name}.jinja").read_text("utf-8"), _STOP_TEXTS[name]
    try:
        return Path(chosen).expanduser().read_text("utf-8"), ()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TemplateError(
            f"CHAT_TEMPLATE={chosen}: not a file ({reason}) and not one of {', '.join(NAMES)}"
        ) from None


def chosen_template(file: ModelFile, chosen: str) -> Template:
    """Return the same, where CHAT_TEMPLATE may also name a template of the model file."""
    own = chat_template(file, chosen)
    return read_chat_template(chosen) if own is None else (own, ())
