"""Prompts that no server has seen before, the same for every server: words drawn with a seed.

Each word, with the space before it, is one token of the default model's vocabulary: a prompt of n words has n tokens.
"""

import random

_NOUNS = """
time year people way day man thing woman life child world school state family student group country problem hand part
place case week company system program question work government number night point home water room mother area money
story fact month lot right study book eye job word business issue side kind head house service friend father power
hour game line end member law car city community name president team minute idea kid body information back parent face
level office door health person art war history party result change morning reason research girl guy moment air
teacher force education foot boy age policy music market sense nation plan college interest death experience effect
use class control care field development role effort rate heart drug show leader light voice wife police mind price
report decision son view relationship town road arm difference value building action season society tax director
position player record paper space ground form event official matter center couple site project activity star table
need court oil situation cost industry figure street image phone picture practice piece land product doctor wall
patient worker news test movie north love step green river tree stone bird summer winter bread glass ship train bridge
garden king queen forest mountain island
"""
WORDS = _NOUNS.split()

SYSTEM_PROMPT = "You are a careful assistant who answers in plain words."


def words(tokens: int, seed: str) -> str:
    """Return a text of this many tokens."""
    return " " + " ".join(random.Random(seed).choices(WORDS, k=tokens))


def first_turn(tokens: int, seed: str) -> list[dict[str, str]]:
    """Return the first messages of a chat, with a question of this many tokens."""
    return [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": words(tokens, seed).strip()},
    ]


def next_turn(messages: list[dict[str, str]], answer: str, seed: str) -> list[dict[str, str]]:
    """Return the messages of the next turn: the answer, and a short question."""
    question = words(12, f"{seed}, next").strip()
    return [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": question}]
