"""gpt-oss (harmony). It writes the recipient of a call in either of two places, and text before calls:

<|channel|>analysis<|message|>Thought.<|end|><|start|>assistant<|channel|>commentary to=functions.look <|constrain|>json<|message|>{"at": "x"}<|call|>
<|channel|>analysis<|message|>Thought.<|end|><|start|>assistant to=functions.look<|channel|>commentary <|constrain|>json<|message|>{"at": "x"}<|call|>
<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>final<|message|>Text.<|return|>
"""  # noqa: E501

from dataclasses import replace

from ggserve.chat.format import CallsFormat, ChatFormat, ThoughtFormat

_END = "<|end|><|start|>assistant"
_COMMENTARY = "<|channel|>commentary"


def applies(source: str) -> bool:
    """Return whether a template is one of them."""
    return "<|channel|>analysis<|message|>" in source and "functions." in source


def corrected(form: ChatFormat) -> ChatFormat:
    """Return the format as the model writes it."""
    return replace(
        form,
        ends=("<|return|>", "<|call|>"),
        text_open="<|channel|>final<|message|>",
        dropped=(f"{_COMMENTARY}<|message|>", _END),
        thought=ThoughtFormat(
            open="<|channel|>analysis<|message|>", close=_END, message_field="thinking", reopens=True
        ),
        calls=CallsFormat(
            first=f"{_COMMENTARY} to=functions.",
            after_name=" <|constrain|>json<|message|>",
            last="",
            others=(
                (f"{_COMMENTARY} to=functions.", "<|message|>"),
                (f"{_COMMENTARY} to=functions.", " json<|message|>"),
                ("to=functions.", f"{_COMMENTARY} <|constrain|>json<|message|>"),
                ("to=functions.", f"{_COMMENTARY} json<|message|>"),
                ("to=functions.", f"{_COMMENTARY}<|message|>"),
            ),
        ),
    )
