"""A reranker ranks, and requests of other llama-server clients are answered."""

from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import Server, serve
from tests.engines.tiny_models import write_tiny_model

DOCUMENTS = ["a dog", "the the the", "a cat", "b"]


@pytest.fixture(scope="module")
def ranking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("reranker")
    with serve(folder / "logs", MODEL_PATH=str(write_tiny_model(folder, "reranker")), PARALLEL="2") as server:
        yield server


def rank(server: Server, **fields) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/rerank", json={"query": "the cat", "documents": DOCUMENTS, **fields})


def test_documents_come_by_their_score_and_each_as_if_alone(ranking: Server):
    answer = rank(ranking).json()
    scores = {result["index"]: result["relevance_score"] for result in answer["results"]}
    assert sorted(scores) == [0, 1, 2, 3]
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    for index, document in enumerate(DOCUMENTS):
        (alone,) = rank(ranking, documents=[{"text": document}]).json()["results"]
        assert alone["relevance_score"] == pytest.approx(scores[index], abs=1e-4)
    assert answer["usage"]["total_tokens"] > 20
    best = rank(ranking, top_n=1, return_documents=True).json()["results"]
    assert best == [{**answer["results"][0], "document": {"text": DOCUMENTS[answer["results"][0]["index"]]}}]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"documents": []}, "documents"),
        ({"documents": "a"}, "documents"),
        ({"documents": [5]}, "documents.0"),
        ({"query": None}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"documents": ["a b c " * 400]}, "maximum context length is 512"),
    ],
)
def test_what_cannot_be_ranked_is_refused_and_costs_no_slot(ranking: Server, fields: dict, said: str):
    answer = rank(ranking, **fields)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert rank(ranking).status_code == 200
    assert not any(slot["is_processing"] for slot in httpx.get(f"{ranking.url}/slots").json())


def test_a_reranker_says_that_it_ranks_and_others_that_they_do_not(ranking: Server, server: Server):
    chat = {"messages": [{"role": "user", "content": "Hi"}]}
    assert "/v1/rerank" in httpx.post(f"{ranking.url}/v1/chat/completions", json=chat).json()["error"]["message"]
    assert httpx.post(f"{ranking.url}/v1/embeddings", json={"input": "a"}).status_code == 400
    refused = rank(server)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_parameter")


def test_props_and_slots(server: Server):
    props = httpx.get(f"{server.url}/props").json()
    assert props["default_generation_settings"]["n_ctx"] == 512
    assert "<|im_start|>" in props["chat_template"]
    slots = httpx.get(f"{server.url}/slots").json()
    assert [slot["id"] for slot in slots] == list(range(props["total_slots"]))
