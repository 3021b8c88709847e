"""Quotations in an answer: separated from its text, looked up in the documents, and rejected if they are not there."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from ggserve.errors import GenerationError
from ggserve.generation import Citation, Delta
from ggserve.grammar.citations import Marks
from ggserve.messages import Document


def with_documents(
    messages: list[dict[str, Any]], documents: Sequence[Document], marks: Marks, *, shown: bool
) -> list[dict[str, Any]]:
    """Return the chat with instructions on quotations at its end, and with the documents at its beginning unless it has
    `shown` them already."""
    users = [index for index, message in enumerate(messages) if message["role"] == "user"]
    told = list(messages)
    if users:
        first, last = users[0], users[-1]
        if not shown:
            told[first] = {**told[first], "content": f"{_listed(documents)}\n\n{told[first]['content']}"}
        told[last] = {**told[last], "content": f"{told[last]['content']}\n\n{_instructions(marks)}"}
    return told


def _listed(documents: Sequence[Document]) -> str:
    titles = [f"Document {number}" + (f": {d.title}" if d.title else "") for number, d in enumerate(documents, 1)]
    return "\n\n".join(f"{title}\n{d.text}" for title, d in zip(titles, documents, strict=True))


def _instructions(marks: Marks) -> str:
    return (
        "Answer from the documents. Support what you say with quotations from them: write each quotation between "
        f"{marks.open} and {marks.close}, word for word."
    )


async def with_citations(
    deltas: AsyncGenerator[Delta, None], documents: Sequence[Document], marks: Marks
) -> AsyncGenerator[Delta, None]:
    """Yield the deltas without marks: each quotation's text separately, and its citation when it is complete. Raises
    GenerationError if a quotation is in no document."""
    answers: dict[int, _Quotations] = {}
    async with aclosing(deltas):
        async for delta in deltas:
            answer = answers.setdefault(delta.index, _Quotations(documents, marks))
            for piece in answer.read(delta):
                yield piece


class _Quotations:
    """The quotations of one answer so far."""

    def __init__(self, documents: Sequence[Document], marks: Marks) -> None:
        self._documents = documents
        self._marks = marks
        self._held = ""  # text that may become a mark
        self._number = 0  # index of the quotation that is open or comes next
        self._quoted: str | None = None  # text of the quotation so far

    def read(self, delta: Delta) -> list[Delta]:
        """Yield a delta as one or more, each of text or of a quotation."""
        bare = replace(delta, text="", finish_reason=None, stop_sequence=None, tokens=())
        pieces: list[Delta] = []
        text, self._held = self._held + delta.text, ""
        while text:
            mark = self._marks.open if self._quoted is None else self._marks.close
            before, found, rest = text.partition(mark)
            if not found:
                kept = _beginning(before, mark)
                before, self._held = before[: len(before) - kept], before[len(before) - kept :]
                if delta.finish_reason and not self._ends_in_mark(before):
                    before, self._held = before + self._held, ""
            pieces += self._piece(bare, before)
            if found and self._quoted is None:
                self._quoted = ""
            elif found:
                pieces.append(self._cited(bare))
            text = rest
        if delta.finish_reason and self._quoted:
            pieces.append(self._cited(bare))
        pieces = pieces or [bare]
        pieces[0] = replace(pieces[0], tokens=delta.tokens)
        pieces[-1] = replace(pieces[-1], finish_reason=delta.finish_reason, stop_sequence=delta.stop_sequence)
        return pieces

    def _ends_in_mark(self, before: str) -> bool:
        """Return whether what is held at the end of the answer is the beginning of a closing mark, and no document's
        text."""
        return self._quoted is not None and self._place(self._quoted + before + self._held) is None

    def _piece(self, bare: Delta, text: str) -> list[Delta]:
        if self._quoted is None:
            return [replace(bare, text=text)] if text else []
        self._quoted += text
        return [replace(bare, text=text, quotation=self._number)] if text else []

    def _cited(self, bare: Delta) -> Delta:
        """Yield the end of the open quotation."""
        text, self._quoted = self._quoted or "", None
        number, self._number = self._number, self._number + 1
        if text and (place := self._place(text)):
            index, start = place
            citation = Citation(index, self._documents[index].title, start, start + len(text), text)
            return replace(bare, quotation=number, citation=citation)
        raise GenerationError("The answer contains a quotation that is not in the documents.")

    def _place(self, text: str) -> tuple[int, int] | None:
        """Return the first document that contains the text, and the position there."""
        starts = ((index, document.text.find(text)) for index, document in enumerate(self._documents))
        return next(((index, start) for index, start in starts if start >= 0), None)


def _beginning(text: str, mark: str) -> int:
    """Return the length of the longest end of a text that may begin a mark."""
    return next((n for n in range(min(len(text), len(mark) - 1), 0, -1) if text.endswith(mark[:n])), 0)
