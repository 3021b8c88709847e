"""Five kinds of work for a chat model, eight chats each. Code and texts are Python's own: its library and its
documentation."""

import calendar
import cmd
import colorsys
import copy
import difflib
import fileinput
import heapq
import inspect
import queue
import random
import sched
import statistics
import textwrap
import threading

Chat = list[dict[str, str]]

_PASSAGE = 900  # characters

_CODE = (
    (colorsys.rgb_to_hls, "r", "red"),
    (colorsys.rgb_to_hsv, "maxc", "largest"),
    (textwrap.dedent, "margin", "indentation"),
    (heapq.merge, "h_append", "append"),
    (queue.Queue.put, "remaining", "seconds_left"),
    (random.Random.triangular, "mode", "peak"),
    (calendar.TextCalendar.formatmonth, "width", "columns"),
    (statistics.linear_regression, "xbar", "mean_x"),
)
_TEXTS = (
    heapq.__dict__["__about__"],
    difflib.SequenceMatcher.__doc__,
    difflib.Differ.__doc__,
    cmd.__doc__,
    sched.__doc__,
    fileinput.__doc__,
    copy.__doc__,
    threading.Condition.wait.__doc__,
)
_PEOPLE = (
    "Anna Keller",
    "Tomás Ruiz",
    "Mei Lin",
    "Oluwaseun Ade",
    "Ingrid Dahl",
    "Yusuf Kaya",
    "Clara Monti",
    "Jan Novák",
)
_TOWNS = ("Bern", "Sevilla", "Chengdu", "Lagos", "Bergen", "Izmir", "Parma", "Brno")
_GOODS = (
    "desk lamps",
    "garden chairs",
    "tea cups",
    "solar panels",
    "wool blankets",
    "copper pots",
    "violins",
    "clocks",
)
_QUESTIONS = (
    "Why is the sky blue?",
    "How do I keep bread fresh for longer?",
    "What should I pack for a week in the mountains?",
    "Can you explain what a hash table is?",
    "What is the difference between weather and climate?",
    "How can I learn to sleep better?",
    "Who was Marie Curie, and what is she known for?",
    "What makes a good cover letter?",
)
_STORIES = (
    "a lighthouse keeper who finds a letter",
    "two brothers who repair an old boat",
    "a city in which nobody is allowed to sing",
    "the last train of the evening",
    "a gardener and a very old tree",
    "a girl who collects the names of winds",
    "a mistake in a map",
    "a baker who cannot sleep",
)


def _ask(question: str) -> Chat:
    return [{"role": "user", "content": question}]


def _edit(index: int) -> Chat:
    function, old, new = _CODE[index]
    code = textwrap.dedent(inspect.getsource(function))
    return _ask(f"Rename `{old}` to `{new}` in this code, and write the whole code again:\n\n```python\n{code}```")


def _summarize(index: int) -> Chat:
    text = inspect.cleandoc(_TEXTS[index] or "")[:_PASSAGE]
    return _ask(
        f"{text}\n\nName the three most important points of this text. After each, quote its sentence word for word."
    )


def _extract(index: int) -> Chat:
    lines = []
    for number in range(4):
        at = (index + 3 * number) % len(_PEOPLE)
        person, town, goods = _PEOPLE[at], _TOWNS[at], _GOODS[(at + index) % len(_GOODS)]
        lines.append(
            f"{person} from {town} ordered {12 + 7 * at} {goods} on {3 + at} May and paid {140 + 35 * at} euros."
        )
    example = '[{"name": "...", "town": "...", "goods": "...", "count": 0, "date": "...", "euros": 0}]'
    return _ask(f"{' '.join(lines)}\n\nGive all orders as JSON like this, and nothing else: {example}")


WORKS: dict[str, list[Chat]] = {
    "edit code": [_edit(index) for index in range(len(_CODE))],
    "quote": [_summarize(index) for index in range(len(_TEXTS))],
    "extract JSON": [_extract(index) for index in range(len(_PEOPLE))],
    "chat": [_ask(question) for question in _QUESTIONS],
    "prose": [_ask(f"Write a long story about {story}.") for story in _STORIES],
}
