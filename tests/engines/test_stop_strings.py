from hypothesis import given
from hypothesis import strategies as st

from ggserve.engines.stop_strings import StopStrings, TextStream


def shown(pieces: list[str], stops: list[str]) -> tuple[list[str], bool]:
    scanner = StopStrings(stops)
    chunks = []
    for piece in pieces:
        text, stopped = scanner.push(piece)
        chunks.append(text)
        if stopped:
            return chunks, True
    chunks.append(scanner.finish())
    return chunks, False


def test_a_stop_string_over_several_pieces_is_never_shown():
    assert shown(["one S", "TO", "P two"], ["STOP"]) == (["one ", "", ""], True)


def test_a_beginning_that_leads_nowhere_is_shown_later():
    assert shown(["one ST", "AY"], ["STOP"]) == (["one ", "STAY", ""], False)


def test_what_is_held_at_the_end_is_shown():
    assert shown(["one ST"], ["STOP"]) == (["one ", "ST"], False)


def test_the_first_stop_string_in_the_text_counts():
    assert shown(["a b c"], ["c", "b"]) == (["a "], True)


def test_which_stop_string_was_met_is_known():
    scanner = StopStrings(["c", "bc", "b"])
    scanner.push("a ")
    assert scanner.met is None
    scanner.push("bc")
    assert scanner.met == "bc"


@given(
    st.lists(st.text("ab\n", max_size=4), max_size=12), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)
)
def test_no_chunk_ever_leaks_a_part_of_a_stop_string(pieces, stops):
    chunks, stopped = shown(pieces, stops)
    text, whole = "".join(chunks), "".join(pieces)
    assert whole.startswith(text)
    assert not any(stop in text for stop in stops)
    if stopped:
        assert any(whole.startswith(stop, len(text)) for stop in stops)
    else:
        assert text == whole


@given(st.text(), st.integers(1, 3))
def test_characters_split_over_tokens_arrive_whole(text, size):
    data = text.encode("utf-8", "replace")
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    stream = TextStream(pieces, ())
    chunks = [stream.push(token)[0] for token in range(len(pieces))] + [stream.finish()[0]]
    assert "".join(chunks) == data.decode()
    assert "\ufffd" not in "".join(chunks).replace("\ufffd", "", data.decode().count("\ufffd"))


def test_bytes_that_are_not_utf8_become_replacement_characters():
    stream = TextStream([b"a\xff", b"\xe2\x82"], ())
    assert [stream.push(0)[0], stream.push(1)[0], stream.finish()[0]] == ["a\ufffd", "", "\ufffd"]


def test_a_stop_string_may_be_what_a_half_character_becomes():
    stream = TextStream([b"a", b"\xe2\x82"], ["\ufffd"])
    stream.push(0)
    stream.push(1)
    assert stream.finish() == ("", True)
