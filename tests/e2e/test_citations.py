"""Citations on the real server: chat completions, whole and streamed, and rejected requests."""

import json
from typing import Any

import httpx
import pytest

from tests.conftest import Server

DOCUMENTS = [
    {"title": "Animals", "text": "The <quick> brown fox jumps over the lazy dog. It starts here, says the <author>."},
    {"content": "Le chat <b>noir</b> dort près de la fenêtre."},
]
CHAT = {
    "messages": [{"role": "user", "content": "What does the fox do?"}],
    "documents": DOCUMENTS,
    "citations": {"enabled": True},
    "max_tokens": 40,
    "temperature": 1.2,
}
TEXTS = [DOCUMENTS[0]["text"], DOCUMENTS[1]["content"]]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def post(server: Server, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json=body, timeout=60)


def liking_quotations(server: Server) -> dict[str, float]:
    tokens = [post(server, "/tokenize", content=text).json()["tokens"] for text in ("<", "quote", ">")]
    return {str(token): 8.0 for (token,) in tokens}


def test_citations_of_a_chat_streamed_and_whole(whole_server: Server):
    found = []
    for seed in range(3):
        body = {**CHAT, "seed": seed, "logit_bias": liking_quotations(whole_server)}
        message = post(whole_server, "/v1/chat/completions", **body).json()["choices"][0]["message"]
        for citation in message["citations"]:
            text = TEXTS[citation["document_index"]]
            assert text[citation["start_char_index"] : citation["end_char_index"]] == citation["cited_text"]
            assert message["content"][citation["start_index"] : citation["end_index"]] == citation["cited_text"]
            assert citation["document_title"] == DOCUMENTS[citation["document_index"]].get("title")
        found += message["citations"]
    assert found
    events = post(whole_server, "/v1/chat/completions", **body, stream=True).text.split("\n\n")
    chunks = [json.loads(event[6:]) for event in events if event.startswith("data: {")]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    content = "".join(delta.get("content") or "" for delta in deltas)
    for citation in (citation for delta in deltas for citation in delta.get("citations", ())):
        assert content[citation["start_index"] : citation["end_index"]] == citation["cited_text"]


def test_anthropic_s_documents_are_quoted(server: Server):
    documents = [
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": text},
            "citations": {"enabled": True},
        }
        for text in TEXTS
    ]
    content = [*documents, {"type": "text", "text": "What does the fox do?"}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 30}
    for block in post(server, "/v1/messages", **body).json()["content"]:
        for citation in block.get("citations", ()):
            text = TEXTS[citation["document_index"]]
            assert text[citation["start_char_index"] : citation["end_char_index"]] == block["text"]


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("documents", {"documents": []}),
        ("documents", {"documents": [{"text": "short"}]}),
        ("documents", {"documents": [{"text": "word " * 41_000}]}),
        ("documents", {"citations": False}),
        ("tools", {"tools": [TOOL]}),
        ("citations", {"response_format": {"type": "json_object"}}),
        ("citations", {"guided_choice": ["a", "b"]}),
        ("citations", {"citations": "yes"}),
        ("messages", {"messages": [{"role": "system", "content": "Hi"}]}),
    ],
)
def test_what_makes_no_sense_is_a_400_that_names_the_field(server: Server, field: str, fields: dict[str, Any]):
    answer = post(server, "/v1/chat/completions", **{**CHAT, **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


@pytest.mark.parametrize(
    ("field", "document", "fields"),
    [
        ("messages", "short", {}),
        ("messages", "word " * 41_000, {}),
        ("tools", TEXTS[0], {"tools": [{"name": "look", "input_schema": {"type": "object"}}]}),
        ("output_format", TEXTS[0], {"output_format": {"type": "json_schema", "schema": {"type": "object"}}}),
    ],
)
def test_the_same_in_anthropic_s_shape(server: Server, field: str, document: str, fields: dict[str, Any]):
    source = {"type": "text", "media_type": "text/plain", "data": document}
    content = [{"type": "document", "source": source, "citations": {"enabled": True}}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 5, **fields}
    answer = post(server, "/v1/messages", **body)
    assert answer.status_code == 400
    assert field in answer.json()["error"]["message"]
