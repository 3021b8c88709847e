"""A body that is too large to look at is refused by its size; a text that cannot fit, by its length."""

import asyncio

import httpx
import pytest

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
