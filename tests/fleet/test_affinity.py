"""A chat goes back to the replica with its beginning, new ones spread out, and nobody waits for a busy replica."""

import json

from hypothesis import given
from hypothesis import strategies as st

from ggserve.cluster.affinity import Affinity, prompt_marks

TURNS = [("user", "Hello."), ("assistant", "Hi!"), ("user", "How are you?"), ("assistant", "Well."), ("user", "Good.")]


def chat(count: int, first: str = "Hello.", **fields: object) -> bytes:
    messages = [{"role": role, "content": text} for role, text in TURNS[:count]]
    messages[0]["content"] = first
    return json.dumps({"messages": messages, **fields}).encode()


def test_the_next_turn_begins_with_the_marks_of_the_last() -> None:
    assert prompt_marks(chat(3))[: len(prompt_marks(chat(1)))] == prompt_marks(chat(1))
    assert prompt_marks(chat(3, stream=True)) == prompt_marks(chat(3))
    assert not set(prompt_marks(chat(3))) & set(prompt_marks(chat(3, first="Bye.")))
    assert not set(prompt_marks(chat(3))) & set(prompt_marks(chat(3, tools=[{"type": "function"}])))


def test_a_longer_text_begins_with_the_marks_of_a_shorter() -> None:
    marks = [prompt_marks(json.dumps({"prompt": "a few words " * count}).encode()) for count in (50, 90)]
    assert marks[0] == marks[1][: len(marks[0])] != []


@given(
    st.binary() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_any_body_has_marks_or_none(body: bytes) -> None:
    assert isinstance(prompt_marks(body), list)
    assert isinstance(prompt_marks(b'{"messages": ' + body + b"}"), list)


def test_a_chat_stays_and_new_ones_spread() -> None:
    affinity: Affinity[str] = Affinity(slots=10)
    idle = dict.fromkeys("abc", 0)
    first = {n: affinity.choose(idle, [n]) for n in range(30)}
    assert sorted(first.values()) == ["a"] * 10 + ["b"] * 10 + ["c"] * 10
    for turn in range(1, 4):
        for n in range(30):
            assert affinity.choose(idle, [n + 100 * t for t in range(turn + 1)]) == first[n]


def test_an_edited_turn_goes_back_too() -> None:
    affinity: Affinity[str] = Affinity(slots=2)
    idle = dict.fromkeys("abc", 0)
    place = affinity.choose(idle, [1])
    affinity.choose(idle, [1, 2, 3])
    assert affinity.choose(idle, [1, 2, 4]) == place


def test_a_busy_replica_loses_a_chat_that_it_holds() -> None:
    affinity: Affinity[str] = Affinity(slots=4, slack=1)
    place = affinity.choose({"a": 0, "b": 0}, [1])
    assert place is not None
    other = "b" if place == "a" else "a"
    assert affinity.choose({place: 1, other: 0}, [1, 2]) == place
    assert affinity.choose({place: 2, other: 0}, [1, 2, 3]) == other
    assert affinity.choose({place: 4, other: 4}, [1, 2, 3]) is None
    assert affinity.choose({}, [1]) is None


def test_full_replicas_forget_the_oldest_chat_of_all() -> None:
    affinity: Affinity[str] = Affinity(slots=1)
    idle = {"a": 0, "b": 0}
    first, second = affinity.choose(idle, [1]), affinity.choose(idle, [2])
    affinity.choose(idle, [1])
    assert affinity.choose(idle, [3]) == second != first


def test_what_a_replica_tells_is_believed_until_it_is_gone() -> None:
    affinity: Affinity[str] = Affinity(slots=2)
    affinity.update({"a": [], "b": [7]})
    assert affinity.choose({"a": 0, "b": 1}, [7, 8, 9]) == "b"
    assert affinity.choose({"a": 0, "b": 1}, [10]) == "a"
    affinity.update({"a": [], "c": []})
    assert affinity.choose({"a": 0, "c": 1}, [7, 20]) == "a"


@given(st.lists(st.tuples(st.lists(st.integers(0, 20), unique=True), st.sampled_from([None, "a", "b"]))))
def test_memory_is_bounded_and_consistent(steps: list[tuple[list[int], str | None]]) -> None:
    affinity: Affinity[str] = Affinity(slots=2)
    for marks, teller in steps:
        if teller:
            affinity.update({"a": [], "b": [], teller: marks})
        else:
            assert affinity.choose({"a": 0, "b": 0}, marks) in {"a", "b"}
        held = [chat for chats in affinity._held.values() for chat in chats]
        assert all(len(chats) <= 2 for chats in affinity._held.values())
        assert sorted(affinity._by_mark) == sorted(mark for chat in held for mark in chat.marks)
