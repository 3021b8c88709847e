from hypothesis import given
from hypothesis import strategies as st

from ggserve.engines.banned import BannedStrings, Token
from ggserve.generation import SamplingParams


def pushed(banned: BannedStrings, *pieces: str) -> tuple[str, int]:
    shown, back = "", 0
    for number, piece in enumerate(pieces):
        tokens, back = banned.push(Token(number, piece.encode()))
        shown += b"".join(token.piece for token in tokens).decode()
    return shown, back


def test_a_banned_text_goes_back_to_the_token_that_it_begins_in():
    banned = BannedStrings(SamplingParams(bad_words=("the sun",)))
    assert pushed(banned, "I see", " the", " s", "un") == ("I see", 3)
    assert banned.forbidden == {1}
    assert pushed(banned, " a", " moon") == (" a moon", 0)
    assert banned.forbidden == set()


def test_held_tokens_come_when_the_text_turns_out_harmless():
    banned = BannedStrings(SamplingParams(bad_words=("sunday",)))
    assert pushed(banned, "a ", "sun") == ("a ", 0)
    assert pushed(banned, "shine") == ("sunshine", 0)
    pushed(banned, "sunda")
    assert [token.piece for token in banned.finish()] == [b"sunda"]


def test_banned_strings_ignore_case_and_bad_words_do_not():
    for written in ("Élan VITAL", "élan vital"):
        assert pushed(BannedStrings(SamplingParams(banned_strings=("élan Vital",))), written)[1] == 1
        assert pushed(BannedStrings(SamplingParams(bad_words=("Élan VITAL",))), written)[1] == written.count("VITAL")


def test_tokens_that_contain_a_banned_text_are_known():
    banned = BannedStrings(SamplingParams(bad_words=("a.b",), banned_strings=("No",)))
    assert banned.containing([b"a.b", b"axb", b"NO", b"nope", b"n"]) == {0, 2, 3}


@given(
    st.lists(st.text("ab", min_size=1, max_size=3), max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_no_shown_text_contains_a_banned_one(pieces, words):
    banned = BannedStrings(SamplingParams(bad_words=tuple(words)))
    kept: list[str] = []
    shown = ""
    for number, piece in enumerate(pieces):
        tokens, back = banned.push(Token(number, piece.encode()))
        kept.append(piece)
        if back:
            del kept[-back:]
        shown += b"".join(token.piece for token in tokens).decode()
        assert "".join(kept).startswith(shown)
        assert not any(word in "".join(kept) for word in words)
