"""A thought within its budget: the requests to the engine, step by step, and the answer."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from ggserve.chat.format import ChatFormat, ThoughtFormat, ThoughtState
from ggserve.generation import Delta, Grammar, SamplingParams
from ggserve.model.thinking import Budget, closing_text, within_budget

FORM = ChatFormat(thought=ThoughtFormat(open="<think>\n", close="\n</think>\n\n"))
AFTER, WHOLE = Grammar("regex", "yes"), Grammar("regex", "whole")


class Script:
    """Says one character as one token, what it wants to say after a text that it knows."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, SamplingParams]] = []

    async def __call__(self, begun: str, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        self.asked.append((begun, params))
        text = next(rest for start, rest in self.answers.items() if (begun.endswith(start) and start) or not begun)
        for count, character in enumerate(text, 1):
            said = text[:count]
            stop = next((stop for stop in params.stop if said.endswith(stop)), None)
            if stop:
                yield Delta("", 7, 3, count, finish_reason="stop", stop_sequence=stop)
                return
            if count == params.max_tokens:
                yield Delta(character, 7, 3, count, finish_reason="length")
                return
            held = any(stop.startswith(said[-size:]) for stop in params.stop for size in range(1, len(stop)))
            yield Delta("" if held else character, 7, 3, count)
        yield Delta("", 7, 3, len(text), finish_reason="stop")


def answer(script: Script, budget: int, state: ThoughtState, **options: object) -> tuple[str, Delta]:
    params = SamplingParams(grammar=WHOLE, **options)  # type: ignore[arg-type]

    async def collect() -> list[Delta]:
        return [delta async for delta in within_budget(script, params, Budget(budget, FORM, AFTER), state)]

    deltas = asyncio.run(collect())
    assert [delta.finish_reason is None for delta in deltas] == [True] * (len(deltas) - 1) + [False]
    assert {(delta.prompt_tokens, delta.cached_tokens) for delta in deltas} == {(7, 3)}
    counts = [delta.completion_tokens for delta in deltas]
    assert counts == sorted(counts)
    return "".join(delta.text for delta in deltas), deltas[-1]


def test_a_thought_that_is_too_long_is_closed_and_the_answer_follows():
    script = Script({"": "0123456789", "</think>\n\n": "yes"})
    text, last = answer(script, 4, "open")
    assert text == "0123\n</think>\n\nyes"
    assert (last.finish_reason, last.completion_tokens) == ("stop", 4 + 3)
    assert [params.grammar for _, params in script.asked] == [None, AFTER]


def test_a_thought_that_ends_by_itself_is_left_as_it_is():
    script = Script({"": "01\n</think>", "</think>\n\n": "yes"})
    text, last = answer(script, 40, "open", stop=("#",))
    assert text.replace("\n", "") == "01</think>yes"
    assert last.stop_sequence is None


def test_a_model_that_ends_within_its_thought_answers_all_the_same():
    script = Script({"": "01", "</think>\n\n": "yes"})
    assert answer(script, 40, "open")[0] == "01\n</think>\n\nyes"


def test_no_budget_means_no_thought():
    script = Script({"</think>\n\n": "yes"})
    assert answer(script, 0, "open")[0] == "\n</think>\n\nyes".lstrip()
    assert len(script.asked) == 1


@pytest.mark.parametrize(("limit", "expected"), [(3, "012"), (4, "0123"), (6, "0123\n</think>\n\nye")])
def test_max_tokens_counts_thought_and_answer(limit: int, expected: str):
    script = Script({"": "0123456789", "</think>\n\n": "yes"})
    text, last = answer(script, 4, "open", max_tokens=limit)
    assert last.finish_reason == "length"
    assert text == expected


def test_a_thought_that_the_model_begins_itself_is_bounded_too():
    script = Script({"": "<think>\n0123456789", "<think>": "0123456789", "</think>\n\n": "yes"})
    text, last = answer(script, 4, "free")
    assert text == "<think>0123\n</think>\n\nyes"
    assert [params.grammar for _, params in script.asked] == [WHOLE, None, AFTER]
    assert last.finish_reason == "stop"


def test_a_thought_that_begins_and_ends_at_once_is_one():
    async def generate(begun: str, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        yield Delta("yes" if begun else "<think></think>ye", 7, 3, 4)
        yield Delta("", 7, 3, 4, finish_reason="stop")

    text, _ = answer(generate, 4, "free")  # type: ignore[arg-type]
    assert text == "<think></think>yes"


@pytest.mark.parametrize("said", ["yes <think> no", "<thin", "<", ""])
def test_an_answer_without_a_thought_is_one_step(said: str):
    script = Script({"": said})
    text, _ = answer(script, 4, "free")
    assert (text, len(script.asked)) == (said, 1)


def test_each_of_several_answers_has_its_budget():
    script = Script({"": "0123456789", "</think>\n\n": "yes"})
    params = SamplingParams(n=2, seed=5)

    async def collect() -> list[Delta]:
        return [delta async for delta in within_budget(script, params, Budget(2, FORM, None), "open")]

    deltas = asyncio.run(collect())
    for index in (0, 1):
        assert "".join(delta.text for delta in deltas if delta.index == index) == "01\n</think>\n\nyes"
    assert [params.seed for _, params in script.asked] == [5, 5, 6, 6]


def test_a_stop_string_of_the_client_ends_a_thought_and_the_answer():
    script = Script({"": "0123456789", "</think>\n\n": "yes"})
    text, last = answer(script, 8, "open", stop=("3",))
    assert (text, last.finish_reason, last.stop_sequence) == ("012", "stop", "3")


def test_the_closing_is_what_text_and_calls_have_in_common():
    form = ChatFormat(
        text_open="<|channel|>final<|message|>",
        thought=ThoughtFormat(
            open="<|channel|>analysis<|message|>",
            close="<|end|><|start|>assistant<|channel|>final<|message|>",
            close_to_call="<|end|><|start|>assistant",
        ),
    )
    assert form.thought is not None
    assert closing_text(form, form.thought) == "<|end|><|start|>assistant"
    assert FORM.thought is not None
    assert closing_text(FORM, FORM.thought) == "\n</think>\n\n"
