"""Reads how a template writes tool calls."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ggserve.chat.format import ID, INDEX, ArgumentsFormat, CallsFormat
from ggserve.chat.reading.pieces import ENDS, LONGEST, shared_tokens, short
from ggserve.chat.reading.probe import ARGUMENTS, IDS, KEYS, NAMES, RESULT, TEXT, VALUES, Probe, result, tool_call, user

_NUMBER = 7771777
_OBJECT = re.compile(rf'\{{\s*"{KEYS[0]}"\s*:\s*"{VALUES[0]}"\s*\}}')
_EMPTY_THOUGHT = re.compile(r"^<(\w+)></\1>|^<\|START_(\w+)\|><\|END_\2\|>")


def read_calls(probe: Probe) -> None:
    kimi = [f"functions.{name}:{index}" for index, name in enumerate(NAMES)]
    for ids, given in ((ids, given) for ids in (IDS, kimi) for given in ARGUMENTS):
        string = isinstance(given, str)
        answer = written_calls(probe, 1, [given], ids)
        behind = answer.partition(NAMES[0])[2]
        if not behind or VALUES[0] not in behind:
            continue
        form = _json_calls(probe, given, ids) if _OBJECT.search(behind) else None
        if form is None and not string:
            form = _parameter_calls(probe, ids)
        if form is not None:
            probe.set(calls=replace(form, string_arguments=string, id_form="kimi" if ids is kimi else _id_form(probe)))
            if form.next is None:
                probe.set(refused=probe.form.refused | {"parallel_calls"})
            return


def written_calls(probe: Probe, count: int, arguments: Sequence[Any], ids: Sequence[str], *, text: str = "") -> str:
    calls = [tool_call(i, NAMES[i], arguments[i], ids[i]) for i in range(count)]
    silent = not text and "null_content" not in probe.form.refused
    return probe.answer({"content": None if silent else text, "tool_calls": calls}, tools=True)


def _id_form(probe: Probe) -> Any:
    long_id = "Zqcall0AaBbCcDd"
    call = tool_call(0, NAMES[0], {}, long_id)
    long_result = {"role": "tool", "tool_call_id": long_id, "name": NAMES[0], "content": RESULT}
    short = [user(), {"role": "assistant", "content": "", "tool_calls": [{**call, "id": IDS[0]}]}, result(0)]
    messages = [user(), {"role": "assistant", "content": "", "tool_calls": [call]}, long_result]
    refuses = probe.render(messages, tools=True) is None and probe.render(short, tools=True) is not None
    return "mistral" if refuses else "any"


def _split(answer: str, arguments: str | re.Pattern[str]) -> list[str]:
    """Return the literals around the names and arguments of an answer with calls, in order."""
    pieces = []
    rest = answer
    for name in NAMES:
        before, found, behind = rest.partition(name)
        if not found:
            break
        match = re.search(arguments, behind)
        if match is None:
            return []
        pieces += [before, behind[: match.start()]]
        rest = behind[match.end() :]
    return [*pieces, rest]


def _json_calls(probe: Probe, given: Any, ids: Sequence[str]) -> CallsFormat | None:
    return _assembled(probe, [_split(written_calls(probe, n, [given] * n, ids), _OBJECT) for n in (1, 2, 3)], ids)


def _assembled(probe: Probe, pieces: list[list[str]], ids: Sequence[str]) -> CallsFormat | None:
    single, double, triple = pieces
    if len(single) != 3:
        return None
    after_text, first = _first(probe, single[0], ids)
    after_name, last = single[1], single[2]
    following = None
    if len(double) == 5:
        following, last = double[2], double[4]
        if len(triple) == 7:
            following, first, after_name = _with_index(following, triple[4], first, (after_name, double[3]))
    last = _without_end(probe, last)
    holes = [_holes(text, ids) for text in (first, after_name, following or "", last)]
    if any(len(text) > LONGEST for text in holes):
        return None
    return CallsFormat(
        first=holes[0],
        after_name=holes[1],
        next=None if following is None else holes[2],
        last=holes[3],
        after_text=after_text,
    )


def _first(probe: Probe, before: str, ids: Sequence[str]) -> tuple[str, str]:
    """Return the literals that separate text from calls and open the first call."""
    thought = probe.form.thought
    first = before.removeprefix(probe.header) if before.startswith(probe.header) else before
    if first == before and probe.header:
        first = first[len(shared_tokens(before, probe.header)) :]
    if thought:
        tags = thought.open.strip() + thought.close.strip()
        for text in (thought.none, thought.open + thought.close, tags, thought.close):
            if text.strip() and first.startswith(text.strip()):
                first = first[len(text) :] if first.startswith(text) else first[len(text.strip()) :]
    for text in (probe.form.text_open, probe.form.text_close):
        first = first.removeprefix(text) if text else first
    first = _EMPTY_THOUGHT.sub("", first)
    answer = written_calls(probe, 1, [{KEYS[0]: VALUES[0]}], ids, text=TEXT)
    before, found, behind = answer.partition(TEXT)
    between = behind.partition(NAMES[0])[0] if found else ""
    if between.endswith(first.lstrip()) and first.strip():
        stripped = first.lstrip()
        apart = between[: -len(stripped)].removeprefix(probe.form.text_close)
        return "" if probe.end.strip() and probe.end.strip() in apart else short(apart), stripped
    return "", first


def _without_end(probe: Probe, last: str) -> str:
    if probe.end and last.endswith(probe.end):
        return last[: -len(probe.end)]
    if probe.end.strip() and last.rstrip().endswith(probe.end.strip()):
        return last.rstrip()[: -len(probe.end.strip())]
    end = ENDS.search(last)
    return last[: end.start()] if end else last


def _parameter_calls(probe: Probe, ids: Sequence[str]) -> CallsFormat | None:
    """Read calls whose parameters each have a name."""
    key, value = KEYS[0], VALUES[0]
    both = dict(zip(KEYS, VALUES, strict=True))
    answer, two = written_calls(probe, 1, [{key: value}], ids), written_calls(probe, 1, [both], ids)
    pattern = rf"{key}(.*?){value}"
    found = re.search(pattern, answer, re.DOTALL)
    found_two = re.search(rf"{key}(.*?){VALUES[0]}(.*?){KEYS[1]}(.*?){VALUES[1]}", two, re.DOTALL)
    if found is None or found_two is None:
        return None
    after_key, between = found[1], found_two[2]
    quote = after_key[-1] if after_key[-1:] in ("'", '"') and between[:1] == after_key[-1] else ""
    if quote:
        after_key, between = after_key[:-1], between[1:]
    before = answer.partition(NAMES[0])[2][: found.start() - len(answer.partition(NAMES[0])[0]) - len(NAMES[0])]
    after = answer[found.end() + len(quote) :]
    close = shared_tokens(after, between) if not quote else ""
    opening = between[len(close) :]
    if quote or not before.endswith(opening) or not opening.strip():
        close, opening = "", ""
    after_name = before[: len(before) - len(opening)] if opening else before
    number = written_calls(probe, 1, [{key: _NUMBER}], ids)
    other = re.search(rf"{key}(.*?){_NUMBER}", number, re.DOTALL)
    arguments = ArgumentsFormat(
        syntax="parameters",
        open=opening,
        after_key=after_key,
        after_key_other=other[1] if other and other[1] != after_key and not quote else None,
        between=between,
        close=close,
        quote=quote,
    )
    quoted = re.escape(quote)
    region = rf"{re.escape(opening)}{key}{re.escape(after_key)}{quoted}{value}{quoted}{re.escape(close)}"
    given = [{key: value}] * 3
    pieces = [_split(written_calls(probe, n, given[:n], ids), region) for n in (1, 2, 3)]
    form = _assembled(probe, pieces, ids)
    if form is None:
        return None
    nothing = written_calls(probe, 1, [{}], ids).partition(NAMES[0])[2]
    nothing, last = _without_end(probe, nothing), form.last
    empty = ""
    if nothing.startswith(form.after_name) and nothing.rstrip().endswith(last.rstrip()):
        empty = nothing[len(form.after_name) : len(nothing.rstrip()) - len(last.rstrip())]
    return replace(form, after_name=form.after_name or after_name, arguments=replace(arguments, empty=short(empty)))


def _holes(literal: str, ids: Sequence[str]) -> str:
    for call_id in ids:
        literal = literal.replace(call_id, ID)
    return literal


def _with_index(following: str, next_but_one: str, first: str, after_names: tuple[str, str]) -> tuple[str, str, str]:
    """Return the literals with INDEX in place of the numbers of calls."""
    one, other = re.split(r"(\d+)", following), re.split(r"(\d+)", next_but_one)
    differing = [i for i in range(1, min(len(one), len(other)), 2) if one[i] != other[i]]
    if len(one) == len(other) and one[::2] == other[::2]:
        for index in differing:
            before = one[index - 1][-8:]
            first = re.sub(rf"{re.escape(before)}\d+", lambda _: before + INDEX, first, count=1)  # noqa: B023
            one[index] = INDEX
        following = "".join(one)
    counted = [re.split(r"(\d+)", text) for text in after_names]
    after_name = after_names[0]
    if counted[0] != counted[1] and counted[0][::2] == counted[1][::2]:
        after_name = "".join(INDEX if a != b else a for a, b in zip(*counted, strict=True))
    return following, first, after_name
