"""Why a prompt is evaluated again: each reason, told from tokens and from what the prompts were made of."""

from dataclasses import replace

import pytest

from ggserve.chat.rendering import Chat
from ggserve.messages import Tools
from ggserve.model.prompt_memory import Parts, PromptMemory
from ggserve.prompt_progress import CacheMiss, PromptProgress

COMMON, REST = list(range(100)), list(range(1000, 1200))
SYSTEM = {"role": "system", "content": "Be brief."}
CHAT = Chat([SYSTEM, {"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes?"}])
TEXT = Parts(hash(None))


def run(
    memory: PromptMemory, tokens: list[int], *, cached: int = 0, slot: int = 0, parts: Parts = TEXT
) -> CacheMiss | None:
    progress = memory.explaining(PromptProgress(), tokens, lambda: parts)
    progress.begin(slot, len(tokens), cached)
    progress.advance(len(tokens))
    return progress.miss


def parts(chat: Chat = CHAT, template: str = "t", lora: object = None) -> Parts:
    return Parts.of(chat, template, lora)


@pytest.mark.parametrize(
    ("earlier", "reason", "message"),
    [
        (parts(replace(CHAT, tools=Tools(({"type": "function", "function": {"name": "f"}},)))), "tools", None),
        (parts(replace(CHAT, messages=[{**SYSTEM, "content": "Be long."}, *CHAT.messages[1:]])), "system", 0),
        (parts(replace(CHAT, messages=[SYSTEM, {"role": "user", "content": "Hello."}])), "message", 1),
        (parts(template="u"), "template", None),
        (parts(replace(CHAT, template_arguments={"enable_thinking": True})), "template", None),
        (parts(lora=(0, 0.5)), "lora", None),
        (parts(), "template", None),  # which renders the same messages in another way
        (TEXT, "text", None),
    ],
)
def test_the_part_that_differs_is_named(earlier: Parts, reason: str, message: int | None) -> None:
    memory = PromptMemory(rewinds=True)
    run(memory, [*COMMON, 1, *REST], slot=3, parts=earlier)
    miss = run(memory, [*COMMON, 2, *REST], cached=len(COMMON), parts=parts())
    assert miss == CacheMiss(reason, len(REST), 3, len(COMMON), message)  # type: ignore[arg-type]
    assert str(len(REST)) in str(miss)


def test_a_prompt_that_goes_on_or_is_another_misses_nothing() -> None:
    memory = PromptMemory(rewinds=True)
    assert run(memory, COMMON) is None
    assert run(memory, COMMON + REST, cached=len(COMMON)) is None
    assert run(memory, COMMON + list(range(5000, 5300)), cached=len(COMMON)) is None


def test_the_nearest_prompt_is_the_one_that_has_most_in_common() -> None:
    memory = PromptMemory(rewinds=True)
    run(memory, [9, *COMMON, 1, *REST])
    run(memory, [*COMMON, 2, *REST], slot=1)
    assert run(memory, [*COMMON, 3, *REST], cached=100) == CacheMiss("text", len(REST), 1, len(COMMON))
    assert run(memory, [*COMMON, *range(5000, 5300)], cached=100) is None


def test_tokens_that_another_prompt_drove_out_are_told() -> None:
    memory = PromptMemory(rewinds=True)
    run(memory, COMMON + REST)
    run(memory, list(range(5000, 5300)))
    assert run(memory, COMMON + REST + [7]) == CacheMiss("eviction", len(COMMON + REST), 0, 0)


def test_a_cache_that_cannot_go_back_is_told() -> None:
    memory = PromptMemory(rewinds=False)
    run(memory, COMMON + REST)
    assert run(memory, [*COMMON, 1, 2]) == CacheMiss("model", len(COMMON), 0, len(COMMON))


def test_an_aborted_prompt_is_known_as_far_as_it_was_evaluated() -> None:
    memory = PromptMemory(rewinds=True)
    progress = memory.explaining(PromptProgress(), COMMON + REST, lambda: TEXT)
    progress.begin(0, len(COMMON + REST), 0)
    progress.advance(len(COMMON))
    assert run(memory, COMMON + REST, cached=len(COMMON)) is None
