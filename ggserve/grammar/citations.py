"""The grammar of answers with citations: free text, and between two marks only text from the documents.

A quotation and its closing mark are one terminal. As two, the lexer would reject a document's text before a `<`.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ggserve.generation import Grammar
from ggserve.messages import LEAST_QUOTED

_START = "start: answer\n"


@dataclass(frozen=True)
class Marks:
    """The texts before and after a quotation. No document contains the closing mark."""

    open: str
    close: str


def marks_for(documents: Sequence[str]) -> Marks:
    """Return marks that cannot be mistaken for a part of the documents."""
    number = 0
    while any(f"</quote{number or ''}>" in document for document in documents):
        number += 1
    return Marks(f"<quote{number or ''}>", f"</quote{number or ''}>")


def citation_grammar(documents: Sequence[str], marks: Marks, source: str) -> Grammar:
    """Return the grammar of answers that quote these documents, from a request field."""
    return Grammar("citations", json.dumps([documents, marks.open, marks.close], ensure_ascii=False), source)


def opening_mark(grammar: Grammar) -> str:
    """Return the mark before a quotation."""
    return str(json.loads(grammar.text)[1])


def citation_lark(grammar: Grammar) -> str:
    """Return the grammar in llguidance's dialect of Lark. A quotation consists of whole words."""
    documents, opening, closing = json.loads(grammar.text)
    names = [f"DOCUMENT_{index}" for index in range(len(documents))]
    least = LEAST_QUOTED + len(closing)
    return "".join(
        [
            '%llguidance {"no_forcing": true}\n',
            _START,
            "answer: (TEXT | ANGLE | quotation)*\n",
            f"quotation: {json.dumps(opening)} QUOTED\n",
            "TEXT: /[^<]+/\n",
            "ANGLE: /<+[^q<]/\n",  # a `<` that does not open a quotation
            f"QUOTED: (({' | '.join(names)}) {json.dumps(closing)}) & /(?s:.{{{least},}})/\n",
            *(
                f'{name}: %regex {{"substring_words": {json.dumps(document, ensure_ascii=False)}}}\n'
                for name, document in zip(names, documents, strict=True)
            ),
        ]
    )


def with_ends(text: str, end_ids: Iterable[int]) -> str:
    """Return the grammar with these tokens as optional ends of the answer."""
    ids = ",".join(map(str, sorted(end_ids)))
    return text.replace(_START, f"start: answer (<[{ids}]>)?\n", 1) if ids else text
