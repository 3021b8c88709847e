"""`python -m tests.phrases`: finds phrases that read like a translation in docs, docstrings, comments and messages."""

import re
import subprocess
import sys
from pathlib import Path

PHRASES = {
    r"[,;:(] of which": "whose, or a second sentence",
    r"for to \w+": "to",
    r"what of (it|its|them)\b": "a noun",
    r"such a one": "one",
    r"so many of the": "a number",
    r"calls? of functions?": "tool calling, tool call",
    r"models? that sees?": "vision model",
    r"guess(es|ed|ing)? ahead": "speculative decoding",
    r"held to (a|an|the|its) (schema|grammar)": "structured output; constrained by",
    r"shall": "must, should or will",
    r"anew": "again",
    r'"""(What|Whether|How)': "a noun phrase or an imperative",
}
FOLDERS = (
    "ggserve/",
    "bench/",
    "docs/",
    "deploy/",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "main.py",
    "model.py",
)
SUFFIXES = (".md", ".py", ".js", ".html", ".css", ".yaml", ".service")


def findings(text: str) -> list[tuple[int, str, str]]:
    """Return the line, the phrase and what to write instead, for each phrase in a text."""
    found = []
    for phrase, instead in PHRASES.items():
        pattern = phrase.replace(" ", r"\s+(?:# )?")  # a phrase may continue on the next line
        matches = re.finditer(rf"(?:(?<!\w)|(?=\W))(?:{pattern})\b", text, re.IGNORECASE)
        found += [(text.count("\n", 0, match.start()) + 1, " ".join(match[0].split()), instead) for match in matches]
    return found


def main() -> int:
    names = subprocess.run(
        ["git", "ls-files", *FOLDERS], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    lines = [
        f"{name}:{line}: {phrase!r}: write {instead}"
        for name in names
        if name.endswith(SUFFIXES) and "/vendor/" not in name
        for line, phrase, instead in findings(Path(name).read_text("utf-8"))
    ]
    print("\n".join(lines) or "no phrases found")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
