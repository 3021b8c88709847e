"""Grammars that would take seconds or gigabytes to compile end by themselves, and nobody waits for them."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ggserve.errors import InvalidRequest
from ggserve.generation import Grammar, schema_grammar
from ggserve.grammar import references
from ggserve.grammar.matcher import Grammars, byte_vocabulary
from ggserve.grammar.references import endless_reference

SLOW = Grammar("lark", 'start: %json {"type": "integer", "\\u006dultipleOf": 9999991}')


@pytest.fixture
def grammars() -> Iterator[Grammars]:
    grammars = Grammars(byte_vocabulary())
    yield grammars
    grammars.close()


@pytest.mark.parametrize("step", [999983, 9999991, 0.0099991, 10007, 65537])
def test_a_step_with_too_many_digits_is_refused(grammars: Grammars, step: float):
    with pytest.raises(InvalidRequest, match="multipleOf"):
        asyncio.run(grammars.matcher(schema_grammar({"type": "number", "multipleOf": step})))


@pytest.mark.parametrize("step", [1, 2, 0.01, 0.25, 5, 100, 4096, 65536, 1_000_000, 1e-6, 9973])
def test_other_steps_are_followed(grammars: Grammars, step: float):
    matcher, _ = asyncio.run(grammars.matcher(schema_grammar({"type": "number", "multipleOf": step})))
    text = f"{3 * step:f}".rstrip("0").rstrip(".") if isinstance(step, float) else str(3 * step)
    assert matcher.take_text(text)
    assert matcher.complete


def test_many_steps_together_are_tried_first(grammars: Grammars):
    items = [{"type": "integer", "multipleOf": 9900 + number} for number in range(60)]
    with pytest.raises(InvalidRequest, match="too much time or memory"):
        asyncio.run(grammars.matcher(schema_grammar({"type": "array", "prefixItems": items})))


def test_a_slow_grammar_is_refused_and_the_others_do_not_wait(grammars: Grammars):
    async def compiled() -> list[str]:
        done: list[str] = []

        async def compile_one(name: str, grammar: Grammar) -> None:
            try:
                await grammars.matcher(grammar)
            except InvalidRequest as error:
                assert "too much time or memory" in str(error)
            done.append(name)

        slow = asyncio.create_task(compile_one("slow", SLOW))
        await asyncio.sleep(0)
        await compile_one("quick", schema_grammar({"type": "integer"}))
        await slow
        return done

    assert asyncio.run(compiled()) == ["quick", "slow"]


def test_closing_ends_what_is_tried(grammars: Grammars):
    def close_when_it_runs() -> None:
        while not grammars._trials._running:
            time.sleep(0.01)
        grammars._trials.close()

    threading.Thread(target=close_when_it_runs).start()
    with pytest.raises(InvalidRequest):
        asyncio.run(grammars.matcher(SLOW))
    with pytest.raises(InvalidRequest, match="closed"):
        asyncio.run(grammars.matcher(Grammar("lark", SLOW.text + " ")))


def chain(length: int, last: dict[str, Any], *, backwards: bool) -> dict[str, Any]:
    """Definitions that each require the next twice."""
    definitions = {
        f"d{number}": {
            "type": "object",
            "properties": {name: {"$ref": f"#/$defs/d{number + 1}"} for name in ("a", "b")},
            "required": ["a", "b"],
        }
        for number in range(length)
    }
    definitions[f"d{length}"] = last
    order = reversed(definitions) if backwards else list(definitions)
    return {"$defs": definitions, "properties": {name: {"$ref": f"#/$defs/{name}"} for name in order}}


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("ends", [False, True])
def test_the_search_for_endless_references_looks_at_each_a_few_times(
    monkeypatch: pytest.MonkeyPatch, backwards: bool, ends: bool
):
    looks = 0
    end = references._Search._end

    def counted(search: Any, schemas: Any) -> bool:
        nonlocal looks
        looks += 1
        return end(search, schemas)

    monkeypatch.setattr(references._Search, "_end", counted)
    last = {"type": "string"} if ends else {"$ref": "#/$defs/d0"}
    found = endless_reference(chain(300, last, backwards=backwards))
    assert (found is None) == ends
    assert looks < 300 * 20


def test_references_in_no_order_are_refused_before_they_take_long():
    schema = chain(1000, {"type": "string"}, backwards=False)
    names = sorted(schema["properties"], key=lambda name: name[::-1])
    schema["properties"] = {name: schema["properties"][name] for name in names}
    try:
        assert endless_reference(schema) is None
    except ValueError as error:
        assert "too many" in str(error)
