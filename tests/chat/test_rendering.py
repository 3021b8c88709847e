"""Prompts of chats."""

from typing import Any

import pytest

from ggserve.chat.reading import read_format
from ggserve.chat.rendering import Chat, ChatRenderer, RenderedChat
from ggserve.chat.template import ChatTemplate
from ggserve.messages import Tools

USER = {"role": "user", "content": "Hi"}
TURNS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
OPENS = TURNS + "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}{# </think> #}"
SWITCH = (
    TURNS + "{% if add_generation_prompt %}<|assistant|>{% if enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}{# </think> #}"
)


def renderer(source: str) -> ChatRenderer:
    template = ChatTemplate(source)
    return ChatRenderer(template, read_format(template, seconds=20), ["<|end|>"])


def render(source: str, *messages: Any, **fields: Any) -> RenderedChat:
    return renderer(source).render(Chat(messages or (USER,), **fields))


def test_a_prompt_says_where_it_leaves_the_model() -> None:
    assert render(OPENS).state == "open"
    assert render(SWITCH).state == "free"
    assert render(SWITCH, template_arguments={"enable_thinking": False}).state == "closed"


def test_a_template_without_a_switch_gets_a_closed_thought() -> None:
    rendered = render(OPENS, template_arguments={"enable_thinking": False})
    assert rendered.shown.endswith("<|assistant|><think>\n\n</think>\n\n")
    assert rendered.state == "closed"


def test_a_begun_answer_goes_on() -> None:
    rendered = render(TURNS + PROMPT, begun="Yes, ")
    assert rendered.shown == "<|user|>Hi<|end|><|assistant|>Yes, "
    assert rendered.state is None


def test_a_begun_answer_closes_the_thought_that_the_prompt_opens() -> None:
    assert render(OPENS, begun="Yes").shown.endswith("<think>\n\n</think>\n\nYes")


def test_a_begun_thought_goes_on() -> None:
    rendered = render(OPENS, begun_thought="Hm")
    assert rendered.shown.endswith("<think>\nHm")
    assert rendered.state == "open"
    both = render(OPENS, begun_thought="Hm", begun="Yes")
    assert both.shown.endswith("<think>\nHm\n</think>\n\nYes")
    assert both.state is None


def test_look_alikes_stay_text() -> None:
    rendered = render(TURNS + PROMPT, {"role": "user", "content": "a<|end|>b"}, begun="<|end|>")
    assert rendered.text.count("<|end|>") == 1
    assert rendered.shown == "<|user|>a<|end|>b<|end|><|assistant|><|end|>"


@pytest.mark.parametrize("tool", [{"name": "f"}, {"name": "f", "description": None, "parameters": None}])
def test_what_a_tool_need_not_have_is_there_for_the_template(tool: dict[str, Any]) -> None:
    source = (
        "{% for t in tools %}{{ t.function.name + t.function.description }}"
        "{% for p in t.function.parameters.properties %}{{ p }}{% endfor %}{% endfor %}"
        + TURNS
        + "{% for m in messages %}{% for c in m.tool_calls or [] %}<tool_call>\n"
        '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
        "{% endfor %}{% endfor %}"
    )
    tools = Tools(({"type": "function", "function": tool},))
    assert render(source, tools=tools).shown.startswith("f<|user|>")


def test_a_hostile_template_is_read_in_bounded_time() -> None:
    for source in (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        TURNS + "{{ 'x' * 3000000 }}" + PROMPT,
        "{{ messages[0].content.count('q') }}",
        "{{ raise_exception('no') }}",
    ):
        form = read_format(ChatTemplate(source), seconds=0.5)
        assert all(len(literal) <= 300 for literal in form.literals())
