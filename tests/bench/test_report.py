"""The arithmetic of the benchmark: medians, ratios, the table; and reading an answer in whatever pieces it comes."""

import json

import pytest

from bench.client import BenchError, read_answer
from bench.report import medians, ratio, shown, table
from bench.rows import Row

RATE = Row("decode", "decode", "tokens/s", True)
DELAY = Row("prompt", "first token", "s", False)


def test_medians_are_those_of_all_tries_and_leave_out_what_was_not_measured():
    assert medians({"a": {"decode": [3.0, 100.0, 1.0], "prompt": []}, "b": {}}) == {"a": {"decode": 3.0}, "b": {}}


def test_a_ratio_above_one_is_always_better():
    assert ratio(RATE, own=150, peer=100) == 1.5
    assert ratio(DELAY, own=2, peer=3) == 1.5


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(162.4, "tokens/s", "162 tokens/s"), (0.0456, "s", "46 ms"), (2.345, "s", "2.35 s"), (61.6, "%", "62%")],
)
def test_figures_have_three_digits_and_a_unit(value, unit, text):
    assert shown(value, unit) == text


def test_the_table_has_a_line_for_each_measured_row_and_ratios_where_both_are_known():
    values = {
        "ggserve": {"decode": 160.0, "prompt": 2.0},
        "llama-server": {"decode": 128.0},
        "naive": {},
    }
    unmeasured = Row("memory", "memory", "MB", False)
    lines = table([RATE, DELAY, unmeasured], values).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["", "ggserve", "llama-server", "naive", "ggserve vs llama-server"]
    assert cells[2] == ["decode", "160 tokens/s", "128 tokens/s", "", "1.25x"]
    assert cells[3] == ["first token", "2.00 s", "", "", ""]
    assert len(cells) == 4
    assert len({len(line) for line in lines}) == 1


def chunk(text, **fields):
    return b"data: " + json.dumps({"choices": [{"text": text}], **fields}).encode() + b"\n\n"


def framed(*payloads):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(payload), payload) for payload in (*payloads, b""))


USAGE = {"completion_tokens": 3, "prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2}}


def test_an_answer_reads_the_same_whole_and_byte_by_byte():
    raw = framed(chunk(""), chunk("one"), chunk(" two") + chunk(" three"), chunk("", usage=USAGE), b"data: [DONE]\n\n")
    single = [(float(at), raw[at : at + 1]) for at in range(len(raw))]
    for pieces in ([(1.0, raw)], single):
        answer = read_answer(pieces, sent=0.0)
        assert (answer.text, answer.tokens, answer.prompt_tokens, answer.cached_tokens) == ("one two three", 3, 5, 2)
    assert answer.first == raw.index(b'"one"') + len(b'"one"}]}\n\n') - 1  # when the event's last byte came
    assert answer.last == raw.index(b'" three"') + len(b'" three"}]}\n\n') - 1
    assert answer.decode_rate == 2 / (answer.last - answer.first)


def test_a_whole_answer_has_all_its_text_at_the_end():
    body = json.dumps({"choices": [{"message": {"content": "one two"}}], "usage": USAGE}).encode()
    answer = read_answer([(1.0, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), (3.0, body)], sent=0.0)
    assert (answer.text, answer.first_token_seconds, answer.decode_rate) == ("one two", 3.0, 1.0)
    assert not answer.streamed


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 429 Too Many Requests\r\n\r\n{}",
        framed(chunk("one")),
        framed(chunk("one"), b'event: error\ndata: {"error": {}}\n\n', b"data: [DONE]\n\n"),
        framed(b"data: [DONE]\n\n"),
    ],
    ids=["nothing", "status", "broken off", "error event", "no text"],
)
def test_anything_but_a_whole_answer_is_an_error(raw):
    with pytest.raises(BenchError):
        read_answer([(1.0, raw)] if raw else [], sent=0.0)
