"""A body that is too large to parse is rejected by its size, and a text that cannot fit by its length."""

import asyncio

import httpx
import orjson
import pytest
from starlette.exceptions import HTTPException

from ggserve.api import bodies
from ggserve.api.bodies import JSONRoute
from ggserve.errors import ContextOverflow
from ggserve.model.gguf_model import GGUFModel
from tests.conftest import Server


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("prompt", [1] * 300_000, "more than 200000 values"),
        ("messages", [{"role": "user", "content": "a"}] * 100_000, "more than 200000 values"),
        ("metadata", nested(200), "nested more than 100 levels"),
    ],
)
def test_bodies_of_many_or_deep_values_are_refused(server: Server, field: str, value: object, said: str) -> None:
    path = "/v1/completions" if field == "prompt" else "/v1/chat/completions"
    answer = httpx.post(server.url + path, json={field: value})
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


def test_a_text_that_cannot_fit_is_refused_before_anything_is_made_of_it(
    model: GGUFModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tokenizes(*_: object, **__: object) -> None:
        raise AssertionError("it was tokenized")

    monkeypatch.setattr(model._codec, "encode_prompt", tokenizes)
    monkeypatch.setattr(model._codec, "encode_rendered", tokenizes)
    text = "a" * 10_000_000
    for answer in (
        model.complete(text),
        model.chat([{"role": "user", "content": text}]),
        model.chat([{"role": "user", "content": "a", "name": text}]),
    ):
        with pytest.raises(ContextOverflow, match="at least"):
            asyncio.run(anext(answer))


def test_the_longest_text_that_may_fit_is_tokenized(model: GGUFModel) -> None:
    longest = max(model.pieces(range(1000, 49152)), key=len)
    text = longest.decode() * (model.context_length + 10)
    with pytest.raises(ContextOverflow) as refused:
        asyncio.run(anext(model.complete(text)))
    assert refused.value.prompt_tokens >= model.context_length


def test_every_route_with_a_body_has_these_bounds() -> None:
    from ggserve.api.admission import all_routes
    from ggserve.app import DIALECTS

    posts = [route for route in all_routes(each.router for each in DIALECTS) if "POST" in getattr(route, "methods", ())]
    assert posts
    assert all(isinstance(route, JSONRoute) for route in posts)


@pytest.mark.parametrize(
    "body", [b"[%s]" % b",".join([b"[]"] * 500_000), b"[" * (2 << 20), b'{"a":[%s]}' % (b'"",' * 900_000)]
)
def test_a_large_body_of_many_values_is_refused_before_it_is_parsed(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []
    monkeypatch.setattr("ggserve.api.bodies.orjson.loads", parsed.append)
    with pytest.raises(HTTPException, match="more than 200000 values"):
        bodies._parsed(body)
    assert parsed == []


def test_marks_within_texts_do_not_count() -> None:
    text = 'a, [b], {"c": "d"} \\ ' * 100_000
    value = {"prompt": text, text: [text]}
    assert bodies._parsed(orjson.dumps(value)) == value
