import pytest

from ggserve.chat.format import ID, INDEX, shown
from tests.chat.formats import ALL, MISTRAL, QWEN3


@pytest.mark.parametrize(
    ("prompt", "state"),
    [
        ("<|im_start|>assistant\n<think>\n", "open"),
        ("<|im_start|>assistant\n<think>", "open"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "closed"),
        ("<|im_start|>assistant\n", "free"),
    ],
)
def test_a_prompt_says_where_it_leaves_the_model(prompt, state):
    assert QWEN3.thought is not None
    assert QWEN3.thought.state(prompt) == state


def test_literals_name_all_that_a_model_writes_between_values():
    assert {"[TOOL_CALLS]", f"[CALL_ID]{ID}[ARGS]"} <= set(MISTRAL.literals())
    assert all(isinstance(literal, str) for form in ALL.values() for literal in form.literals())


def test_holes_are_shown_by_name():
    assert shown(f"a{ID}b{INDEX}") == "a⟨id⟩b⟨index⟩"
