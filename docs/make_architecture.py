"""Writes the list of modules in docs/architecture.md from their docstrings: `python docs/make_architecture.py`."""

import ast
from pathlib import Path

PAGE = Path(__file__).with_name("architecture.md")
_PACKAGE = Path(__file__).parent.parent / "ggserve"
_TITLE = "## Modules\n"


def page() -> str:
    """Return the page's Markdown."""
    folders = sorted({path.parent for path in _PACKAGE.rglob("*.py")})
    return PAGE.read_text().partition(_TITLE)[0] + _TITLE + "".join(map(_section, folders))


def _section(folder: Path) -> str:
    lines = [f"\n### {folder.relative_to(_PACKAGE.parent)}/\n\n{_summary(folder / '__init__.py')}\n\n"]
    lines += [f"- `{path.name}`: {_summary(path)}\n" for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]
    return "".join(lines)


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    summary = " ".join(docstring.partition("\n\n")[0].split())
    return f"{summary[:-1]}." if summary.endswith(":") else summary


if __name__ == "__main__":
    PAGE.write_text(page())
