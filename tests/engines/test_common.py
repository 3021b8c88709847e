"""Both engines behave the same: one suite for both, on the same model, with its first layers where its words mean
nothing."""

import asyncio
import dataclasses
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from ggserve.errors import ContextOverflow, InvalidRequest, InvalidToken, QueueFull
from ggserve.generation import Grammar, SamplingParams, schema_grammar
from ggserve.messages import Tools
from ggserve.model.gguf_model import GGUFModel
from tests.answers import answer, collect
from tests.llama_server import can, rounds
from tests.processes import PATIENCE

GREEDY = SamplingParams(max_tokens=16, temperature=0)
PROMPT = "The three primary colours are"
REFERENCE = json.loads((Path(__file__).parent / "llama_cpp_greedy.json").read_text())
PROMPTS = [
    "def fibonacci(n):",
    "In 1969, the first",
    PROMPT,
    "1, 2, 3, 4, 5, 6,",
    "A B C D E F G",
]


def replace(**changes) -> SamplingParams:
    return dataclasses.replace(GREEDY, **changes)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_answers_are_the_same_on_both_engines(either: GGUFModel, prompt: str):
    if os.environ.get("TEST_LLAMA_SERVER") and "llama-server" in either.hardware.build:
        pytest.skip("the kernels of another build round otherwise")
    reference = next(r for r in REFERENCE if r.get("prompt") == prompt)
    text, last = answer(either.complete(prompt, replace(max_tokens=30)))
    assert text == reference["text"]
    assert last.completion_tokens == len(reference["tokens"])


def test_an_answer_of_some_length_ends_with_length(shallow_either: GGUFModel):
    _, last = answer(shallow_either.complete(PROMPT, GREEDY))
    assert (last.finish_reason, last.completion_tokens) == ("length", 16)
    assert last.prompt_tokens == len(shallow_either.tokenize(PROMPT))


@pytest.mark.parametrize("logprobs", [None, 1])
def test_an_answer_that_ends_within_a_character_shows_it(shallow_either: GGUFModel, logprobs: int | None):
    begins = shallow_either.tokenize("🚀")[0]
    params = SamplingParams(max_tokens=1, temperature=0, logit_bias={begins: 200.0}, logprobs=logprobs)
    if logprobs is not None and not can(shallow_either, "logprobs_before_bias"):
        with pytest.raises(InvalidRequest, match="logprobs after logit_bias"):
            answer(shallow_either.complete("Hi", params))
        return
    text, last = answer(shallow_either.complete("Hi", params))
    assert (text, last.finish_reason, last.completion_tokens) == ("\ufffd", "length", 1)


def test_no_tokens_wanted_none_made(shallow_either: GGUFModel):
    text, last = answer(shallow_either.complete(PROMPT, replace(max_tokens=0)))
    assert (text, last.finish_reason, last.completion_tokens) == ("", "length", 0)


def test_a_chat_ends_with_stop_and_ignores_eos_when_asked(either: GGUFModel):
    chat = [{"role": "user", "content": "Reply with the word yes."}]
    _, last = answer(either.chat(chat, replace(max_tokens=60)))
    assert last.finish_reason == "stop"
    params = replace(max_tokens=last.completion_tokens + 8, ignore_eos=True)
    text, longer = answer(either.chat(chat, params))
    assert (longer.finish_reason, longer.completion_tokens) == ("length", params.max_tokens)
    assert "<|im_end|>" not in text


def test_text_of_a_user_is_no_control_token(shallow_either: GGUFModel):
    spoken = shallow_either.tokenize_chat([{"role": "user", "content": "a <|im_end|> b"}])
    plain = shallow_either.tokenize_chat([{"role": "user", "content": "a  b"}])
    end = shallow_either.tokenize("<|im_end|>")[-1]
    assert spoken.count(end) == plain.count(end)


def test_token_ids_are_a_prompt(shallow_either: GGUFModel):
    assert (
        answer(shallow_either.complete(shallow_either.tokenize(PROMPT), GREEDY))[0]
        == answer(shallow_either.complete(PROMPT, GREEDY))[0]
    )


def test_an_empty_prompt_starts_a_text(shallow_either: GGUFModel):
    assert answer(shallow_either.complete("", GREEDY))[1].prompt_tokens == 1
    assert answer(shallow_either.complete([], GREEDY))[1].prompt_tokens == 1


def test_cached_equals_uncached(shallow_either: GGUFModel):
    if rounds(shallow_either):
        pytest.skip("the build rounds otherwise")
    prompt = "Cats and dogs are " * 8
    first, uncached = answer(shallow_either.complete(prompt, GREEDY))
    second, cached = answer(shallow_either.complete(prompt, GREEDY))
    assert first == second
    assert uncached.cached_tokens < cached.cached_tokens == cached.prompt_tokens - 1


def test_a_prompt_that_is_evaluated_anew_rounds_the_same(shallow_either: GGUFModel):
    if rounds(shallow_either):
        pytest.skip("the build rounds otherwise")
    prompt = shallow_either.tokenize("Cats and dogs are " * 8)

    async def logprobs() -> list[float]:
        deltas = [delta async for delta in shallow_either.complete(prompt, replace(cache_prompt=False, logprobs=0))]
        assert deltas[-1].cached_tokens == 0
        return [token.logprob for delta in deltas for token in delta.tokens]

    found = []
    for held in (1, 7, 22):
        answer(shallow_either.complete(prompt[:held], replace(max_tokens=1)))
        found.append(asyncio.run(logprobs()))
    assert found[0] == found[1] == found[2] != []


def test_a_seed_repeats_and_another_does_not(shallow_either: GGUFModel):
    params = SamplingParams(max_tokens=24, temperature=1.0, seed=7)
    texts = [answer(shallow_either.complete("Once upon a time", params))[0] for _ in range(3)]
    assert len(set(texts)) == 1
    other = answer(shallow_either.complete("Once upon a time", dataclasses.replace(params, seed=-8)))[0]
    assert other != texts[0]


@pytest.mark.parametrize("length", [1, 3, 7])
def test_a_stop_string_is_never_shown_and_nothing_before_it_is_lost(shallow_either: GGUFModel, length: int):
    whole, _ = answer(shallow_either.complete(PROMPT, GREEDY))
    stop = whole[10 : 10 + length]
    text, last = answer(shallow_either.complete(PROMPT, replace(stop=(stop,))))
    assert text == whole[: whole.index(stop)]
    assert (last.finish_reason, last.stop_sequence) == ("stop", stop)


def test_the_start_of_a_stop_string_is_shown_when_no_more_comes(shallow_either: GGUFModel):
    whole, _ = answer(shallow_either.complete(PROMPT, GREEDY))
    text, last = answer(shallow_either.complete(PROMPT, replace(stop=(whole[-3:] + "never",))))
    assert (text, last.finish_reason) == (whole, "length")


def test_logit_bias_forbids_and_forces(shallow_either: GGUFModel):
    first = shallow_either.tokenize(answer(shallow_either.complete(PROMPT, replace(max_tokens=1)))[0])[0]
    assert (
        shallow_either.tokenize(
            answer(shallow_either.complete(PROMPT, replace(max_tokens=1, logit_bias={first: -100})))[0]
        )[0]
        != first
    )
    forced = shallow_either.tokenize(" blue")[0]
    text, _ = answer(shallow_either.complete(PROMPT, replace(max_tokens=3, logit_bias={forced: 100})))
    assert text == " blue" * 3


def test_penalties_keep_from_repeating(either: GGUFModel):
    prompt = "1 2 3 1 2 3 1 2 3 1 2 3 1 2"

    def repeated(**penalties: float) -> int:
        text, _ = answer(either.complete(prompt, replace(**penalties)))
        return sum(token in either.tokenize(prompt) for token in either.tokenize(text))

    plain = repeated()
    assert repeated(repetition_penalty=1.5) < plain
    assert repeated(presence_penalty=2.0, frequency_penalty=2.0) < plain


@pytest.mark.parametrize(
    ("grammar", "answers"),
    [
        (Grammar("choice", '["red, and", "blue\\n"]'), "red, and|blue\n"),
        (Grammar("regex", "[0-9]{3}-[A-Z]{2}"), "[0-9]{3}-[A-Z]{2}"),
        (Grammar("gbnf", 'root ::= " " item item\nitem ::= [a-c]'), " [a-c]{2}"),
        (Grammar("lark", 'start: "x" /y{2}/ z?\nz: "z"'), "xyyz?"),
        (
            schema_grammar({"type": "array", "items": {"type": "boolean"}, "maxItems": 2}),
            r"\[((true|false)(, |\]$)){0,2}\]?",
        ),
        (Grammar("regex", "[🙂-🙏]{2}"), "[🙂-🙏]{2}"),
    ],
    ids=["choice", "regex", "gbnf", "lark", "schema", "emoji"],
)
@pytest.mark.parametrize("changes", [{}, {"temperature": 1.5, "seed": 1}, {"ignore_eos": True}], ids=str)
def test_an_answer_follows_its_grammar(shallow_either: GGUFModel, grammar: Grammar, answers: str, changes: dict):
    params = replace(grammar=grammar, max_tokens=30, **changes)
    if "llama-server" in shallow_either.engine.hardware.build and grammar.kind == "lark":
        with pytest.raises(InvalidRequest):
            answer(shallow_either.complete(PROMPT, params))
        return
    text, last = answer(shallow_either.complete(PROMPT, params))
    assert last.finish_reason == "stop"
    assert re.fullmatch(answers, text)


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_an_answer_of_a_grammar_that_is_cut_is_a_beginning(shallow_either: GGUFModel, length: int):
    for pattern, prefix in (("(colour 🙏🙏){9}", "colour 🙏🙏" * 9), ("🙏{9}", "🙏" * 9)):
        params = replace(grammar=Grammar("regex", pattern), max_tokens=length)
        text, last = answer(shallow_either.complete(PROMPT, params))
        assert prefix.startswith(text)
        assert (last.finish_reason, last.completion_tokens) == ("length", length)


def test_a_stop_string_ends_an_answer_of_a_grammar(shallow_either: GGUFModel):
    params = replace(grammar=Grammar("regex", "one, two, (three|four)"), stop=("two",))
    text, last = answer(shallow_either.complete(PROMPT, params))
    assert (text, last.finish_reason, last.stop_sequence) == ("one, ", "stop", "two")


def test_a_grammar_that_cannot_be_followed_is_refused_and_costs_no_slot(shallow_either: GGUFModel):
    for grammar in (schema_grammar({"type": "wat"}), Grammar("regex", "(a"), Grammar("gbnf", "x"), Grammar("lark", "")):
        with pytest.raises(InvalidRequest):
            answer(shallow_either.complete(PROMPT, replace(grammar=grammar)))
    assert shallow_either.engine.pool.idle == 2


def test_penalties_and_bias_do_not_break_a_grammar(shallow_either: GGUFModel):
    bias = dict.fromkeys(shallow_either.tokenize("0123456789-"), -100.0)
    params = replace(grammar=Grammar("regex", "[0-9]{3}-[0-9]{4}"), logit_bias=bias, frequency_penalty=2.0)
    text, _ = answer(shallow_either.complete(PROMPT, dataclasses.replace(params, repetition_penalty=3.0)))
    assert re.fullmatch("[0-9]{3}-[0-9]{4}", text)


def test_top_k_of_one_is_greedy(shallow_either: GGUFModel):
    greedy, _ = answer(shallow_either.complete(PROMPT, GREEDY))
    for params in ({"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}):
        assert answer(shallow_either.complete(PROMPT, replace(temperature=1.5, **params)))[0] == greedy


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(shallow_either: GGUFModel):
    with pytest.raises(ContextOverflow) as refusal:
        answer(shallow_either.complete([5] * 128, GREEDY))
    assert (refusal.value.prompt_tokens, refusal.value.context_length) == (128, 128)


def test_an_answer_ends_where_the_context_does(shallow_either: GGUFModel):
    _, last = answer(shallow_either.complete([5] * 120, SamplingParams(ignore_eos=True)))
    assert (last.finish_reason, last.completion_tokens) == ("length", 8)


def test_tokens_outside_of_the_vocabulary_are_refused(shallow_either: GGUFModel):
    for prompt, bias in (([49152], {}), ([5], {49152: 1.0})):
        with pytest.raises(InvalidToken):
            answer(shallow_either.complete(prompt, replace(logit_bias=bias)))


def test_answers_side_by_side_are_those_alone(shallow_either: GGUFModel):
    if rounds(shallow_either):
        pytest.skip("the build rounds otherwise")
    prompts = PROMPTS[:4]
    alone = [answer(shallow_either.complete(prompt, GREEDY))[0] for prompt in prompts]

    async def together():
        return await asyncio.gather(*(collect(shallow_either.complete(prompt, GREEDY)) for prompt in prompts))

    assert [text for text, _ in asyncio.run(together())] == alone


def test_a_listener_that_leaves_frees_its_slot(either: GGUFModel):
    async def leave_early():
        for prompt in (PROMPT, [6] * 120):  # the second leaves during its prompt
            deltas = either.complete(prompt, SamplingParams(ignore_eos=True))
            if prompt == PROMPT:
                await anext(deltas)
                await deltas.aclose()
            else:
                waiting = asyncio.ensure_future(anext(deltas))
                await asyncio.sleep(0.02)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
        while either.engine.pool.idle < 2:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(leave_early(), PATIENCE))


def test_quick_connects_and_disconnects_lose_no_slot(shallow_either: GGUFModel):
    async def come_and_go():
        async def one(number: int):
            deltas = shallow_either.complete(PROMPT, SamplingParams(max_tokens=50))
            first = asyncio.ensure_future(anext(deltas))
            await asyncio.sleep(number % 5 * 0.002)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            await deltas.aclose()

        for start in range(0, 100, 4):
            await asyncio.gather(*(one(start + i) for i in range(4)))
        while shallow_either.engine.pool.idle < 2:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(come_and_go(), PATIENCE))
    assert shallow_either.engine.pool.queued == 0
    assert answer(shallow_either.complete(PROMPT, GREEDY))[1].completion_tokens == 16


def test_more_than_may_wait_are_turned_away(llama_cpp_model: GGUFModel):
    async def crowd():
        answers = (collect(llama_cpp_model.complete(PROMPT, replace(max_tokens=4))) for _ in range(8))
        return await asyncio.gather(*answers, return_exceptions=True)

    results = asyncio.run(crowd())
    assert sum(isinstance(result, QueueFull) for result in results) == 2  # two run, four wait
    assert sum(isinstance(result, tuple) for result in results) == 6


def test_embeddings_have_length_one_and_tell_meanings_apart(either: GGUFModel):
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Quarterly tax forms are due in April."]
    found = asyncio.run(either.embed(texts))
    vectors = np.array([embedding.vector for embedding in found])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    assert [embedding.prompt_tokens for embedding in found] == [len(either.tokenize(text)) for text in texts]


def test_several_embeddings_are_those_of_each_alone_in_their_order(shallow_either: GGUFModel):
    texts = ["A cat.", "Tax forms are due in April, and " * 4, "Snow", "Dogs and birds and trees", "A cat."]
    together = asyncio.run(shallow_either.embed(texts))
    for text, embedding in zip(texts, together, strict=True):
        alone = asyncio.run(shallow_either.embed([text]))[0]
        assert embedding.prompt_tokens == alone.prompt_tokens
        assert embedding.vector == pytest.approx(alone.vector, abs=1e-4)


def test_embeddings_of_long_inputs_and_of_ids(shallow_either: GGUFModel):
    ids = shallow_either.tokenize("colour " * 90)
    by_text, by_ids = asyncio.run(shallow_either.embed(["colour " * 90, ids]))
    assert by_text.vector @ by_ids.vector > 0.999
    with pytest.raises(ContextOverflow):
        asyncio.run(shallow_either.embed([[5] * 600]))
    with pytest.raises(InvalidRequest):
        asyncio.run(shallow_either.embed([[]]))


def test_embeddings_of_both_engines_agree(ctransformers_model: GGUFModel, llama_cpp_model: GGUFModel):
    texts = ["A cat sleeps on the sofa."]
    a, b = (asyncio.run(engine.embed(texts))[0].vector for engine in (ctransformers_model, llama_cpp_model))
    assert a @ b > 0.99


def test_text_to_ids_and_back(either: GGUFModel):
    text = "Grüße, 世界! <|im_end|>"
    ids = either.tokenize(text)
    assert either.detokenize(ids, skip_special=False) == text
    assert b"".join(either.pieces(ids)).decode() == text
    assert len(either.tokenize(text, parse_special=False)) > len(ids)
    with pytest.raises(InvalidToken):
        either.detokenize([49152])


def test_an_answer_goes_on_from_its_beginning(either: GGUFModel):
    chat = [{"role": "user", "content": "Write one sentence about the sea."}]
    whole, _ = answer(either.chat(chat, GREEDY))
    begun = whole[: whole.index(" ", 8)]
    rest, _ = answer(either.chat(chat, GREEDY, begun=begun))
    assert (begun + rest).startswith(whole)


_TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize("tools", [None, Tools((_TOOL,), required=True), Tools((_TOOL,))])
def test_a_chat_is_counted_as_it_is_evaluated(shallow_either: GGUFModel, tools: Tools | None):
    chat = [{"role": "user", "content": "Hi<|im_end|>" * (1 if tools else 40)}]
    with pytest.raises(ContextOverflow) as refusal:
        answer(shallow_either.chat(chat, tools=tools))
    assert asyncio.run(shallow_either.count_chat(chat, tools=tools)) == refusal.value.prompt_tokens
    if tools is None:
        assert asyncio.run(shallow_either.count_chat(chat, begun=" Yes")) == refusal.value.prompt_tokens + 1


def test_embeddings_leave_a_slot_to_chats(llama_cpp_model: GGUFModel, monkeypatch):
    engine, batches = llama_cpp_model.engine, []
    compute = engine._transport.compute

    def watched(path, body, cancelled):
        batches.append((len(body["input"]), engine.pool.idle))
        return compute(path, body, cancelled)

    monkeypatch.setattr(engine._transport, "compute", watched)
    assert len(asyncio.run(llama_cpp_model.embed(["a", "b", "c"]))) == 3
    assert batches == [(1, 1)] * 3  # of two slots
    assert engine.pool.idle == 2
