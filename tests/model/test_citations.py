"""Answers with citations: each quotation is in its document, word for word, on both engines and a legacy family."""

import asyncio
import json

import pytest

from ggserve.chat.citations import with_citations
from ggserve.errors import InvalidRequest
from ggserve.generation import Citation, SamplingParams
from ggserve.grammar.citations import citation_grammar, marks_for
from ggserve.messages import Document
from ggserve.model.gguf_model import GGUFModel
from tests.conftest import FAMILY_FILES

DOCUMENTS = (
    Document("The <quick> brown fox jumps over the lazy dog. It starts here, says the <author>.", "Animals"),
    Document("Le chat <b>noir</b> dort </quote> près de la fenêtre. 猫は黒いです。"),
)
QUESTION = [{"role": "user", "content": "Hi"}]


def likes_quotations(model: GGUFModel, seed: int) -> SamplingParams:
    (angle,) = model._codec.encode_middle("<")
    return SamplingParams(max_tokens=24, temperature=1.2, seed=seed, logit_bias={angle: 6.0})


async def cited(deltas) -> tuple[str, list[Citation]]:
    text, citations, quoted = "", [], {}
    async for delta in deltas:
        text += delta.text
        if delta.quotation is not None:
            quoted[delta.quotation] = quoted.get(delta.quotation, "") + delta.text
        citations += [delta.citation] if delta.citation else []
    assert [citation.text for citation in citations] == [text for text in quoted.values() if text]
    return text, citations


def check(documents: tuple[Document, ...], citations: list[Citation]) -> None:
    for citation in citations:
        assert documents[citation.document].text[citation.start : citation.end] == citation.text


@pytest.mark.parametrize("engine", ["ctransformers_model", "llama_cpp_model"])
def test_every_citation_is_in_its_document(engine: str, request: pytest.FixtureRequest):
    shallow_either: GGUFModel = request.getfixturevalue(engine)
    made = []
    for seed in range(4):
        params = likes_quotations(shallow_either, seed)
        text, citations = asyncio.run(
            cited(shallow_either.chat(QUESTION, params, documents=DOCUMENTS, shows_documents=True))
        )
        check(DOCUMENTS, citations)
        assert "<quote1>" not in text
        made += citations
    assert made


def test_a_llama_server_without_llguidance_is_told_apart(child_model: GGUFModel):
    with pytest.raises(InvalidRequest, match="ENGINE=ctransformers"):
        asyncio.run(
            cited(child_model.chat(QUESTION, SamplingParams(max_tokens=4), documents=DOCUMENTS, shows_documents=True))
        )


@pytest.mark.parametrize("name", ["starcoder", "gptj", "llama"])
def test_legacy_families_cite_as_well(name: str):
    record = json.loads((FAMILY_FILES / f"{name}.json").read_text("utf-8"))
    path = FAMILY_FILES / f"{name}.f32.bin"
    model = GGUFModel(path, engine="ctransformers", model_type=record["family"], parallel=1, threads=1)
    texts = [document.text for document in DOCUMENTS]
    marks = marks_for(texts)
    grammar = citation_grammar(texts, marks, "documents")
    try:
        prompt = list(record["files"][path.name][0]["ids"])[:4]
        for seed in range(10):
            params = SamplingParams(max_tokens=50, temperature=2.0, seed=seed, grammar=grammar)
            _, citations = asyncio.run(cited(with_citations(model.complete(prompt, params), DOCUMENTS, marks)))
            check(DOCUMENTS, citations)
    finally:
        model.close()


def test_documents_that_cannot_be_followed_are_refused(shallow_either: GGUFModel):
    huge = (Document(" ".join(f"w{number}é" for number in range(60_000))),)
    with pytest.raises(InvalidRequest, match=r"documents"):
        asyncio.run(
            cited(shallow_either.chat(QUESTION, SamplingParams(max_tokens=4), documents=huge, shows_documents=True))
        )
