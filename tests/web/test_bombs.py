"""Markdown that would take seconds, overflow the stack or make a million elements is shown at a bounded cost."""

import pytest

from tests.web.browser import SEA, chat_of
from tests.web.test_protocol import answer_with

SIZE = 10_000  # characters
DEEPEST = 80  # elements inside each other: 16 levels of Markdown, a few elements each


def _filled(unit: str, size: int = SIZE) -> str:
    return (unit * (size // len(unit) + 1))[:size]


_UNITS = (
    *(
        ">",
        "> ",
        "*",
        "_",
        "**a ",
        "*a_ ",
        "_a",
        "a_",
        "* ",
        "- ",
        "1. ",
        "1) ",
        "+ ",
        "[",
        "[a](",
        "![",
        "](",
        "[a]: ",
    ),
    *(
        "<",
        "<!--",
        "<a ",
        "`",
        "~~a ",
        "> - ",
        "- [ ] ",
        "> 1. > - ",
        "- ```\n",
        "> ",
        "#",
        "a\n=\n",
        "- a\n\n  b\n",
        "|",
    ),
    *("- - - - - - - - a\nb\n", "> - > - > - > - a\nb\n", "a|b\n-|-\n", "😀*", "&#35;", "www.a.b(", "\\"),
)
BOMBS = [
    *map(_filled, _UNITS),
    _filled("> ") + _filled("a\n"),
    _filled("*a ") + _filled(" b*"),
    _filled("**a ") + _filled(" b**"),
    _filled("[") + _filled("](a)"),
    "\n".join(map(_filled, ("|a", "|-", "x\n"), (2000, 2000, SIZE))),  # a million cells
    "\n".join(f"{'  ' * depth}- a" for depth in range(140)),
    "\n".join(f"{'>' * depth}a" for depth in range(140)),
    "\n".join(f"[r{number}]: /u" for number in range(500)) + "".join(f"[r{number}] " for number in range(500)),
]


def test_every_bomb_is_shown_within_bounds(page, server, tmp_path):
    page.open(server.url)
    page.import_chats(tmp_path, chat_of(*(text for bomb in BOMBS for text in ("a", bomb))))
    page.click("#chat-list a")
    page.until(lambda: len(page.all(".assistant .body")) == len(BOMBS))
    found = page.js(
        """const depth = (node) => { let deepest = 0;
          for (const one of node.querySelectorAll("*")) {
            let count = 0;
            for (let up = one; up !== node; up = up.parentElement) count += 1;
            deepest = Math.max(deepest, count);
          }
          return deepest;
        };
        return [...document.querySelectorAll(".assistant .body")].map(
          (body) => [body.textContent.length, body.querySelectorAll("*").length, depth(body)])"""
    )
    for bomb, (_, elements, depth) in zip(BOMBS, found, strict=True):
        assert elements <= 2 * len(bomb), bomb[:40]
        assert depth <= DEEPEST, bomb[:40]
    assert page.problems() == []


@pytest.mark.parametrize(
    "bomb", [">" * 3000, "> - " * 3000, "*a " * 3000 + " b*" * 3000], ids=["quotes", "lists", "stars"]
)
def test_a_chat_with_a_bomb_stays_after_a_reload(page, server, bomb):
    page.open(server.url)
    answer_with(page, "v1/chat/completions", {"delta": {"content": bomb}}, {"delta": {}, "finish_reason": "stop"})
    page.ask(SEA)
    page.until(lambda: page.stored()[0]["messages"][-1]["content"] == bomb)
    page.driver.refresh()
    page.wait_ready()
    page.until(lambda: len(page.all(".message")) == 2)
    assert bomb[-1] in page.answer()
    assert page.problems() == []


def test_text_nested_deeply_keeps_its_words(page, server):
    page.open(server.url)
    text = "> " * 40 + "deep\n\n" + "".join(f"{'  ' * depth}- level{depth}\n" for depth in range(30))
    answer_with(page, "v1/chat/completions", {"delta": {"content": text}}, {"delta": {}, "finish_reason": "stop"})
    answer = page.ask(SEA)
    assert all(word in answer for word in ("deep", *(f"level{depth}" for depth in range(30))))
