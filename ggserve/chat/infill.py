"""Fill in the middle: the prompt of a text with a gap, for models that were trained on it.

The prompt is the text before the gap, the text after it, then the token after which the middle follows (Bavarian et al.
2022, arXiv:2207.14255). Mistral's models continue the text before the gap, which comes last (mistral-common). Other
files come first, in llama-server's order. Nothing in a text becomes a control token.
"""

from collections.abc import Sequence
from typing import Protocol

from ggserve.generation import File
from ggserve.tokenizer.vocabulary import Metadata

_SNIPPET = "\n\n--- snippet ---\n\n"  # before each other file, if the vocabulary has no token for it
# By role, its names in GGUF keys, and its spellings in vocabularies: Qwen, Granite, StarCoder, DeepSeek, CodeLlama,
# GLM.
_ROLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "prefix": (
        ("fim_pre", "prefix"),
        ("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "▁<PRE>", "<PRE>", "<|code_prefix|>"),
    ),
    "suffix": (
        ("fim_suf", "suffix"),
        ("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "▁<SUF>", "<SUF>", "<|code_suffix|>"),
    ),
    "middle": (
        ("fim_mid", "middle"),
        ("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "▁<MID>", "<MID>", "<|code_middle|>"),
    ),
    "repository": (("fim_rep",), ("<|repo_name|>", "<|fim_repo|>", "<fim-repo>", "<reponame>")),
    "file": (("fim_sep",), ("<|file_sep|>",)),
}
_MISTRALS = {"prefix": "[PREFIX]", "suffix": "[SUFFIX]", "middle": "[MIDDLE]"}
_NEEDED = ("prefix", "suffix", "middle")


class Encoder(Protocol):
    """Texts to token ids."""

    @property
    def beginning(self) -> Sequence[int]:
        """the tokens before every text: BOS, or none"""
        ...

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...
    def encode_middle(self, text: str) -> list[int]: ...


class Infill:
    """The prompts of one model. `objection` is the reason why it has none, or None."""

    def __init__(self, metadata: Metadata, encoder: Encoder) -> None:
        self._encoder = encoder
        self._tokens = _role_tokens(metadata)
        texts = metadata.get("tokenizer.ggml.tokens")
        self._suffix_first = "prefix" in self._tokens and texts[self._tokens["prefix"]] == b"[PREFIX]"
        self.objection = infill_objection(metadata)

    def prompt(self, prefix: str | Sequence[int], suffix: str, files: Sequence[File] = (), *, room: int) -> list[int]:
        """Return the ids of a prompt. Of the `files`, only the end is kept that fits into `room` tokens with the rest.
        Call it only if there is no objection."""
        tokens, encoder = self._tokens, self._encoder
        before = self._encoded(prefix) if isinstance(prefix, str) else prefix
        first = tokens["prefix"], *before
        last = tokens["suffix"], *encoder.encode_middle(suffix)
        pieces = (*last, *first) if self._suffix_first else (*first, *last, tokens["middle"])
        gap = [*encoder.beginning, *pieces]
        others = self._files(files) if files else []
        return others[max(0, len(others) - max(0, room - len(gap))) :] + gap

    def _files(self, files: Sequence[File]) -> list[int]:
        tokens, separator = self._tokens, self._tokens.get("file")
        ids = [tokens["repository"], *self._encoded("project\n")] if "repository" in tokens else []
        for file in files:
            if separator is None:
                ids += self._encoded(_SNIPPET + file.text)
            else:
                ids += [separator, *self._encoded(f"{file.name}\n{file.text}")]
        return ids if separator is None else [*ids, separator, *self._encoded("this file\n")]

    def _encoded(self, text: str) -> list[int]:
        return self._encoder.encode(text, add_special=False, parse_special=False)


def infill_objection(metadata: Metadata) -> str | None:
    """Return the reason why a model cannot fill in the middle, or None if it can."""
    tokens = _role_tokens(metadata)
    missing = [role for role in _NEEDED if role not in tokens]
    return f"its vocabulary has no fill-in-the-middle token for the {', the '.join(missing)}" if missing else None


def _role_tokens(metadata: Metadata) -> dict[str, int]:
    """Return the token of each role that the vocabulary has: from the file's keys, or else by its spelling."""
    texts: list[bytes] = metadata.get("tokenizer.ggml.tokens")
    every = {role: (*spellings, _MISTRALS.get(role, "")) for role, (_, spellings) in _ROLES.items()}
    wanted = {spelling.encode() for spellings in every.values() for spelling in spellings if spelling}
    spelled = {text.decode(): token for token, text in enumerate(texts) if text in wanted}
    found = {}
    for role, (keys, _) in _ROLES.items():
        named = [metadata.get(f"tokenizer.ggml.{key}_token_id") for key in keys]
        candidates = [
            *(int(token) for token in named if token is not None and 0 <= int(token) < len(texts)),
            *(spelled[spelling] for spelling in every[role] if spelling in spelled),
        ]
        if candidates:
            found[role] = candidates[0]
    return found
