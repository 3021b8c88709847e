"""For each public template, the answer that it writes is parsed back, in random pieces, to the same parts."""

import json
import random
import re
from dataclasses import replace

import pytest

from ggserve.chat.format import ID, INDEX, NAME, ChatFormat
from ggserve.chat.history import History
from ggserve.chat.parser import AnswerParser, CallPiece, Text, Thought
from ggserve.chat.rendering import Chat, ChatRenderer
from ggserve.chat.writing import write_answer
from ggserve.messages import Tools
from tests.chat.public_templates import FOLDER, NAMES, form, template

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="the public templates are not here")

THOUGHT, TEXT = "Hm, what\nis it?", "I look."
CALLS = [("look_up", {"place": 'São Paulo, "X"', "days": 3, "tags": ["a", "b"], "deep": {"x": 1.5}}), ("find", {})]
RESULTS = ("Zqsunny", "Zqrainy")
PROPERTIES = {
    "place": {"type": "string"},
    "days": {"type": "integer"},
    "tags": {"type": "array", "items": {"type": "string"}},
    "deep": {"type": "object", "properties": {"x": {"type": "number"}}},
}
TOOLS = Tools(
    tuple(
        {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}
        for name, properties in (("look_up", PROPERTIES), ("find", {}))
    )
)
SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS.functions}
# Only the template writes arguments in the syntaxes of Gemma 4 and MiniMax M3.
WRITABLE = [name for name in NAMES if not name.startswith(("google-gemma-4", "MiniMax-M3"))]


def renderer(name: str) -> ChatRenderer:
    return ChatRenderer(template(name), form(name), ["<zq>"])


def calling(count: int, text: str = "") -> dict:
    calls = [
        {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for i, (name, arguments) in enumerate(CALLS[:count])
    ]
    return {"role": "assistant", "content": text, "reasoning_content": THOUGHT, "tool_calls": calls}


def parsed(chat_form: ChatFormat, answer: str, state: str) -> tuple[str, str, list]:
    parser = AnswerParser(chat_form, SCHEMAS, state)
    rest, parts = answer, []
    while rest:
        size = random.randint(1, 9)
        parts += parser.push(rest[:size])
        rest = rest[size:]
    parts += parser.finish()
    calls: list[list] = []
    for part in parts:
        if isinstance(part, CallPiece):
            if part.name is not None:
                calls.append([part.name, ""])
            calls[part.index][1] += part.arguments
    return (
        "".join(part.text for part in parts if isinstance(part, Thought)),
        "".join(part.text for part in parts if isinstance(part, Text)),
        [(name, json.loads(arguments)) for name, arguments in calls],
    )


def ended(answer: str, chat_form: ChatFormat) -> str:
    """An answer up to the token that ends it."""
    for end in sorted(chat_form.ends, key=len, reverse=True):
        answer = answer.partition(end)[0]
    return answer


@pytest.mark.parametrize("name", NAMES)
def test_what_a_template_writes_of_calls_is_parsed_back(name: str) -> None:
    chats = renderer(name)
    chat_form = chats.form
    count = 1 if "parallel_calls" in chat_form.refused else 2
    user = {"role": "user", "content": "Zquestion"}
    told = chats.render(Chat([user, calling(count), *results(count)], TOOLS)).shown
    answer = told.rpartition("Zquestion")[2].partition(RESULTS[0])[0]
    opening = chat_form.answer_open.strip()
    answer = answer.partition(opening)[2] if opening and opening in answer else answer
    assert chat_form.calls is not None
    firsts = [re.split(f"[{ID}{INDEX}{NAME}]", first.strip())[0] for first, _ in (*chat_form.calls.others, ("", ""))]
    firsts.insert(0, re.split(f"[{ID}{INDEX}{NAME}]", chat_form.calls.first.strip())[0])
    at = max(answer.rfind(first, 0, answer.find("look_up")) for first in firsts if first) if "<" in firsts[0] else 0
    _, _, calls = parsed(replace(chat_form, thought=None), answer[at:], "closed")
    assert calls == CALLS[:count]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "CohereForAI-c4ai-command-r-plus-tool_use"])
def test_what_a_template_writes_of_an_answer_is_parsed_back(name: str) -> None:
    chats = renderer(name)
    chat_form = chats.form
    assistant = {"role": "assistant", "content": TEXT, "reasoning_content": THOUGHT}
    history = History(chat_form).arranged([{"role": "user", "content": "Zquestion"}, assistant])
    variables = chat_form.thought.on if chat_form.thought else None
    answer = chats.template.render(history, add_generation_prompt=False, variables=variables or {})
    answer = answer.rpartition("Zquestion")[2]
    if THOUGHT not in answer:
        thought, answer = "", TEXT + answer.partition(TEXT)[2]
    else:
        assert chat_form.thought is not None
        thought = THOUGHT
        at = answer.find(chat_form.thought.open.strip())
        answer = answer[at if at >= 0 else answer.find(THOUGHT) :]
    state = "free" if thought and answer.startswith(chat_form.thought.open.strip()) else "open" if thought else "closed"
    told = parsed(chat_form, ended(answer, chat_form), state)
    assert (told[0], told[1].strip(), told[2]) == (thought, TEXT, [])


def results(count: int) -> list[dict]:
    return [{"role": "tool", "tool_call_id": f"call_{i}", "content": RESULTS[i]} for i in reversed(range(count))]


@pytest.mark.parametrize("name", NAMES)
def test_results_stand_in_the_order_of_their_calls(name: str) -> None:
    chats = renderer(name)
    user = {"role": "user", "content": "Hi"}
    told = chats.render(Chat([user, calling(2), *results(2)], TOOLS)).shown
    assert -1 < told.find(RESULTS[0]) < told.find(RESULTS[1])


@pytest.mark.parametrize("name", WRITABLE)
def test_a_written_answer_is_parsed_back(name: str) -> None:
    chat_form = renderer(name).form
    count = 1 if chat_form.calls is None or chat_form.calls.next is None else 2
    given = [(name, arguments, f"Abcdefgh{i}") for i, (name, arguments) in enumerate(CALLS[:count])]
    thought = THOUGHT if chat_form.thought else ""
    alone = parsed(chat_form, write_answer(chat_form, thought, TEXT, []), "free")
    assert alone == (thought, TEXT, [])
    with_calls = parsed(chat_form, write_answer(chat_form, thought, "", given), "free")
    assert with_calls == (thought, "", CALLS[:count])
