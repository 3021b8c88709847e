"""Compares the texts that a template writes: their common parts, in whole tags and words."""

import re
from collections.abc import Iterator
from itertools import takewhile

from ggserve.chat.literals import common_beginning

LONGEST = 300  # characters of a literal
TOKENS = re.compile(r"<[^<>\s]*>|<[^<>]*>|\[/?[A-Z_ ]+\]|\s+|[^<\[\s]+|.", re.DOTALL)
ENDS = re.compile(
    r"<\|(?:im_end|eot_id|eom_id|eot|eom|end|return|call|endoftext|end_of_text|end_of_msg|END_OF_TURN_TOKEN)\|>"
    r"|</s>|<｜end▁of▁sentence｜>"
)


def shared(one: str, other: str) -> int:
    """Return the length of the common beginning, excluding the beginning of a tag."""
    length = len(common_beginning(one, other))
    begun = one.rfind("<", max(0, length - LONGEST), length)
    return begun if begun >= 0 and ">" not in one[begun:length] and length < max(len(one), len(other)) else length


def shared_tokens(one: str, other: str) -> str:
    """Return the common beginning in whole tags, words and runs of white space."""
    pairs = zip(TOKENS.findall(one), TOKENS.findall(other), strict=False)
    return "".join(token for token, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def first_tag(text: str) -> Iterator[str]:
    """Return the tokens up to and including the first tag."""
    for token in TOKENS.findall(text):
        yield token
        if token.startswith(("<", "[")):
            return


def short(literal: str) -> str:
    return literal if len(literal) <= LONGEST else ""
