"""The list of phrases finds what it should, and nothing else."""

import pytest

from tests.phrases import findings


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a model that sees images", 1),
        ("# the answer is held\n# to a schema", 1),
        ('def f():\n    """Whether it is so."""', 2),
        ("one\ntwo, of which one", 2),
    ],
)
def test_a_phrase_is_found(text: str, line: int) -> None:
    assert [found[0] for found in findings(text)] == [line]


@pytest.mark.parametrize("text", ["half of which is cached", '"""Return whether it is so."""', "the marshalled form"])
def test_idiomatic_text_is_not(text: str) -> None:
    assert findings(text) == []
