"""The grammar of quotations: only text of the documents, in whole words, between marks that no document has."""

import asyncio

import pytest

from ggserve.generation import Grammar
from ggserve.grammar.citations import Marks, citation_grammar, marks_for
from ggserve.grammar.matcher import Grammars, byte_vocabulary

DOCUMENTS = [
    "The quick brown fox jumps over the lazy dog. It starts here.",
    "Le chat <b>noir</b> dort près de la fenêtre, <quote>dit-il. 猫は黒いです。",
]


@pytest.fixture(scope="module")
def grammars():
    grammars = Grammars(byte_vocabulary())
    yield grammars
    grammars.close()


def accepts(grammars: Grammars, text: str, documents: list[str] = DOCUMENTS) -> bool:
    grammar = citation_grammar(documents, marks_for(documents), "documents")
    matcher = asyncio.run(grammars.matcher(grammar))[0]
    return matcher.take_text(text) and matcher.complete


@pytest.mark.parametrize(
    "quotation",
    [
        "quick brown fox",
        DOCUMENTS[0],
        "chat <b>noir</b> dort",
        "fenêtre, <quote>dit-il. 猫は黒いです。",
        "starts here.",
    ],
)
def test_what_a_document_says_can_be_quoted(grammars: Grammars, quotation: str):
    assert accepts(grammars, f"It says <quote>{quotation}</quote> and more, 3 < 4.")


@pytest.mark.parametrize(
    "quotation",
    [
        "quick red fox",
        "quick  brown",
        "uick brown fox",
        "",
        "fox",
        "lazy dog. Le chat",
        "Quick brown fox",
        "chat noir dort",
    ],
)
def test_nothing_else_can(grammars: Grammars, quotation: str):
    assert not accepts(grammars, f"<quote>{quotation}</quote>")


def test_free_text_may_have_angles_and_quotations_may_follow_each_other(grammars: Grammars):
    assert accepts(grammars, "a <b> << c </d> <quote>quick brown</quote><quote>lazy dog. It</quote>")
    assert not accepts(grammars, "<quote>quick brown")


def test_marks_that_a_document_has_are_not_used(grammars: Grammars):
    documents = ["He wrote </quote> and </quote1> there."]
    assert marks_for(documents) == Marks("<quote2>", "</quote2>")
    assert accepts(grammars, "<quote2>wrote </quote> and </quote1></quote2>", documents)


def test_a_document_of_200_kb(grammars: Grammars):
    document = " ".join(f"word{number} and" for number in range(14_000))
    assert 150_000 < len(document) < 200_000
    assert accepts(grammars, "<quote>word13000 and word13001</quote>", [document])
    assert not accepts(grammars, "<quote>word13000 and word13002</quote>", [document])


def test_equal_grammars_are_compiled_anew(grammars: Grammars):
    grammar: Grammar = citation_grammar(DOCUMENTS, marks_for(DOCUMENTS), "documents")
    first, second = (asyncio.run(grammars.matcher(grammar))[0] for _ in range(2))
    assert first._matcher is not second._matcher
    assert grammar not in grammars._compiled
