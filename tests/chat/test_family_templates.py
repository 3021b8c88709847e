"""The built-in chat templates for files without one, character by character."""

from pathlib import Path

import pytest

from ggserve.chat.named_templates import NAMES, read_chat_template
from ggserve.chat.template import ChatTemplate
from ggserve.errors import TemplateError

TASK = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
PROMPTS = {
    "chatml": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
    "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    "starchat": "<|system|>\n<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello<|end|>\n"
    "<|user|>\nBye<|end|>\n<|assistant|>\n",
    "falcon": "User: Hi\nAssistant: Hello\nUser: Bye\nAssistant:",
    "alpaca": f"{TASK}\n\n### Instruction:\nHi\n\n### Response:Hello\n\n### Instruction:\nBye\n\n### Response:",
    "dolly": f"{TASK}\n\n### Instruction:\nHi\n\n### Response:\nHello\n\n### End\n\n"
    "### Instruction:\nBye\n\n### Response:\n",
    "vicuna": f"{VICUNA} USER: Hi ASSISTANT: Hello</s> USER: Bye ASSISTANT:",
    "llama-2": "<s>[INST] Hi [/INST] Hello </s><s>[INST] Bye [/INST]",
}
SYSTEM = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "starchat": "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n",
    "falcon": "Be brief.\nUser: Hi\nAssistant:",
    "alpaca": "Be brief.\n\n### Instruction:\nHi\n\n### Response:",
    "dolly": "Be brief.\n\n### Instruction:\nHi\n\n### Response:\n",
    "vicuna": "Be brief. USER: Hi ASSISTANT:",
    "llama-2": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]",
}


def render(name: str, *turns: tuple[str, str]) -> str:
    source, stop = read_chat_template(name)
    template = ChatTemplate(source, "<s>", "</s>", stop)
    assert template.stop == list(stop)
    return template.render([{"role": role, "content": content} for role, content in turns])


@pytest.mark.parametrize("name", PROMPTS)
def test_a_conversation(name: str) -> None:
    turns = (("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"))
    assert render(name, *turns) == PROMPTS[name]


@pytest.mark.parametrize("name", SYSTEM)
def test_a_system_message(name: str) -> None:
    assert render(name, ("system", "Be brief."), ("user", "Hi")) == SYSTEM[name]


def test_every_name_has_its_template_and_stops() -> None:
    for name in NAMES:
        source, stop = read_chat_template(name)
        assert source and stop


def test_a_file_and_what_is_neither(tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text("{{ messages[0]['content'] }}!")
    assert render(str(path), ("user", "Hi")) == "Hi!"
    with pytest.raises(TemplateError, match=r"CHAT_TEMPLATE=chatlm: not a file .* and not one of alpaca, "):
        read_chat_template("chatlm")
