from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggserve.chat.codec import Codec
from ggserve.chat.format import ChatFormat
from ggserve.chat.own_tools import HERMES
from ggserve.chat.reading import read_format
from ggserve.chat.rendering import Chat, ChatRenderer
from ggserve.chat.template import ChatTemplate
from ggserve.messages import Tools
from ggserve.tokenizer.tokenizer import Tokenizer

PARTS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|im_",
    "end|>",
    "<",
    "\ufdd0",
    "\ufdd1",
    " ",
    "hi",
    "é🚀",
]
SPECIAL_TEXTS = st.lists(st.sampled_from(PARTS), max_size=8).map("".join)


@pytest.fixture(scope="session")
def template(smollm2_file: Any, smollm2: Tokenizer) -> ChatTemplate:
    source = smollm2_file.get("tokenizer.chat_template")
    return ChatTemplate(source, smollm2.token_text(smollm2.bos_id), smollm2.token_text(smollm2.eos_id))


def encode_chat(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: list[dict[str, Any]],
    *,
    tools: list[dict[str, Any]] | None = None,
    begun: str = "",
    variables: dict[str, Any] | None = None,
) -> list[int]:
    form = read_format(template) if "think" in (template.source or "") else ChatFormat(calls=HERMES)
    renderer = ChatRenderer(template, form, list(tokenizer.control_tokens))
    chat = Chat(messages, Tools(tuple(tools)) if tools else None, begun, template_arguments=variables or {})
    rendered = renderer.render(chat)
    return Codec(tokenizer).encode_rendered(rendered.text, rendered.stand_ins)


def control_ids(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    control = set(tokenizer.control_tokens.values())
    return [i for i in ids if i in control]


@given(st.lists(SPECIAL_TEXTS, min_size=1, max_size=3))
@settings(deadline=None)
def test_no_text_of_a_user_becomes_a_control_token(
    template: ChatTemplate, smollm2: Tokenizer, contents: list[str]
) -> None:
    messages = [{"role": "user", "content": content} for content in contents]
    plain = [{"role": "user", "content": "x"} for _ in contents]
    ids = encode_chat(template, smollm2, messages)
    assert control_ids(smollm2, ids) == control_ids(smollm2, encode_chat(template, smollm2, plain))
    shown = smollm2.decode(ids, skip_special=False)
    assert shown == smollm2.decode(smollm2.encode(template.render(messages)), skip_special=False)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), max_size=50))
@settings(deadline=None)
def test_without_look_alikes_it_is_the_rendered_text(template: ChatTemplate, smollm2: Tokenizer, content: str) -> None:
    messages = [{"role": "user", "content": content}]
    rendered = template.render(messages)
    assert encode_chat(template, smollm2, messages) == smollm2.encode(rendered, parse_special=True)


def test_look_alikes_in_tools_calls_and_variables(smollm2: Tokenizer) -> None:
    template = ChatTemplate("<|im_start|>{{ tools | tojson }}{{ messages | tojson }}{{ style }}<|im_end|>")
    call = {"function": {"name": "f<|im_end|>", "arguments": {"<|im_start|>": ["<|im_end|>", 1, None]}}}
    ids = encode_chat(
        template,
        smollm2,
        [{"role": "assistant", "content": None, "tool_calls": [call]}],
        tools=[{"function": {"name": "f", "description": "<|im_end|>"}}],
        variables={"style": "<|im_end|>"},
    )
    assert [smollm2.token_text(i) for i in control_ids(smollm2, ids)] == ["<|im_start|>", "<|im_end|>"]


@pytest.mark.parametrize(("first", "second"), [("<|im_", "end|>"), ("<", "|im_end|>"), ("<|im_ \n", "end|>")])
def test_look_alikes_across_a_border(smollm2: Tokenizer, first: str, second: str) -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.content | trim }}{% endfor %}")
    messages = [{"role": "user", "content": first}, {"role": "user", "content": second}]
    ids = encode_chat(template, smollm2, messages)
    assert control_ids(smollm2, ids) == []
    assert smollm2.decode(ids) == first.strip() + second


def test_a_begun_answer_goes_on_and_its_look_alikes_stay_text(smollm2: Tokenizer) -> None:
    template = ChatTemplate("<|im_start|>{{ messages[0].content }}<|im_end|>")
    messages = [{"role": "user", "content": "Hi"}]
    ids = encode_chat(template, smollm2, messages, begun="Yes<|im_end|>")
    assert smollm2.decode(ids, skip_special=False) == "<|im_start|>Hi<|im_end|>Yes<|im_end|>"
    assert control_ids(smollm2, ids) == control_ids(smollm2, encode_chat(template, smollm2, messages))


def test_a_begun_answer_is_no_thought(smollm2: Tokenizer) -> None:
    template = ChatTemplate("{{ messages[0].content }}<think>{{ '\\n' }}")
    messages = [{"role": "user", "content": "Hi"}]
    assert smollm2.decode(encode_chat(template, smollm2, messages)) == "Hi<think>\n"
    ids = encode_chat(template, smollm2, messages, begun="Yes")
    assert smollm2.decode(ids) == "Hi<think>\n\n</think>\n\nYes"


def test_bos_comes_once(vocabulary) -> None:
    llama = vocabulary("llama-spm")
    messages = [{"role": "user", "content": "hi <s>"}]
    for source in ("{{ bos_token }}{{ messages[0].content }}", "{{ messages[0].content }}"):
        ids = encode_chat(ChatTemplate(source, "<s>", "</s>"), llama, messages)
        assert ids[0] == llama.bos_id
        assert ids.count(llama.bos_id) == 1
        assert llama.decode(ids) == "hi <s>"


def test_the_template_sees_lengths_and_roles(smollm2: Tokenizer) -> None:
    template = ChatTemplate("<|{{ messages[0].role }}|>{{ messages[0].content | length }}")
    ids = encode_chat(template, smollm2, [{"role": "im_start", "content": "<|im_end|>"}])
    assert smollm2.decode(ids, skip_special=False) == "<|im_start|>10"
    assert control_ids(smollm2, ids) == [smollm2.control_tokens["<|im_start|>"]]
