"""Quotations are separated from the text around them, in any pieces, and found in their documents."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggserve.chat.citations import with_citations, with_documents
from ggserve.errors import GenerationError
from ggserve.generation import Delta
from ggserve.grammar.citations import Marks
from ggserve.messages import Document

MARKS = Marks("<quote>", "</quote>")
DOCUMENTS = [Document("The quick brown fox."), Document("A lazy dog </q and more <quot.", "Dogs")]


def read(pieces: list[str], documents: list[Document] = DOCUMENTS) -> list[Delta]:
    async def deltas() -> AsyncGenerator[Delta, None]:
        for index, piece in enumerate(pieces):
            yield Delta(piece, 5, 0, index + 1, "stop" if index + 1 == len(pieces) else None)

    async def collected() -> list[Delta]:
        return [delta async for delta in with_citations(deltas(), documents, MARKS)]

    return asyncio.run(collected())


@given(
    st.lists(st.sampled_from(["a <b ", "x<quo", "<quote>quick brown</quote>", "<quote>lazy dog </q</quote>", "1 < 2"])),
    st.lists(st.integers(1, 9), min_size=1),
)
def test_pieces_do_not_matter(parts: list[str], lengths: list[int]):
    whole = "".join(parts)
    pieces, start = [], 0
    while start < len(whole):
        pieces.append(whole[start : start + lengths[len(pieces) % len(lengths)]])
        start += len(pieces[-1])
    found = read([*pieces, ""])
    assert "".join(delta.text for delta in found) == whole.replace("<quote>", "").replace("</quote>", "")
    citations = [delta.citation for delta in found if delta.citation]
    quoted = [part.removeprefix("<quote>").removesuffix("</quote>") for part in parts if part.startswith("<quote>")]
    assert [citation.text for citation in citations] == quoted
    for number, citation in enumerate(citations):
        assert DOCUMENTS[citation.document].text[citation.start : citation.end] == citation.text
        assert "".join(delta.text for delta in found if delta.quotation == number) == citation.text
    assert [delta.finish_reason for delta in found if delta.finish_reason] == ["stop"]
    assert found[-1].finish_reason == "stop"


def test_a_quotation_that_is_cut_short_is_cited_as_far_as_it_came():
    *_, last = read(["It is <quote>quick br"])
    assert (last.citation.text, last.citation.start, last.citation.end) == ("quick br", 4, 12)


@pytest.mark.parametrize("length", range(1, len(MARKS.close)))
def test_a_closing_mark_that_is_cut_short_is_not_quoted(length: int):
    found = read(["<quote>quick br", "own", *MARKS.close[:length], ""])
    assert "".join(delta.text for delta in found) == "quick brown"
    assert [delta.citation.text for delta in found if delta.citation] == ["quick brown"]
    assert found[-1].finish_reason == "stop"


def test_a_quotation_that_ends_as_a_closing_mark_begins():
    assert read(["<quote>lazy dog </q"])[-1].citation.text == "lazy dog </q"


def test_a_quotation_that_no_document_has_is_an_error():
    with pytest.raises(GenerationError):
        read(["<quote>red fox</quote>"])


def test_the_model_is_told_of_documents_and_marks():
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "What?"}]
    told = with_documents(chat, DOCUMENTS, MARKS, shown=False)
    assert told[0] == chat[0]
    assert DOCUMENTS[0].text in told[1]["content"]
    assert "Dogs" in told[1]["content"]
    assert MARKS.open in told[1]["content"]
    shown = with_documents(chat, DOCUMENTS, MARKS, shown=True)
    assert DOCUMENTS[0].text not in shown[1]["content"]
    assert chat[1]["content"] == "What?"
