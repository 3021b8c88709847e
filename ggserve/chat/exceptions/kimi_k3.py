"""Kimi K3. Its tags consist of three parts, and its arguments name their type:

<|open|>think<|sep|>Thought.<|close|>think<|sep|><|open|>response<|sep|>Text.<|close|>response<|sep|><|open|>tools<|sep|><|open|>call tool="look" index="1"<|sep|><|open|>argument key="at" type="string"<|sep|>x<|close|>argument<|sep|><|close|>call<|sep|><|close|>tools<|sep|><|close|>message<|sep|><|end_of_msg|>
"""  # noqa: E501

from dataclasses import replace

from ggserve.chat.format import ID, INDEX, ArgumentsFormat, CallsFormat, ChatFormat, ThoughtFormat

_CALL = '<|open|>call tool="'


def applies(source: str) -> bool:
    """Return whether a template is one of them."""
    return "xtml_type" in source and "<|open|>" in source


def corrected(form: ChatFormat) -> ChatFormat:
    """Return the format with calls."""
    calls = CallsFormat(
        first=f"<|open|>tools<|sep|>{_CALL}",
        after_name=f'" index="{INDEX}"<|sep|>',
        next=f"<|close|>call<|sep|>{_CALL}",
        last="<|close|>call<|sep|><|close|>tools<|sep|>",
        arguments=ArgumentsFormat(
            syntax="parameters",
            open='<|open|>argument key="',
            after_key='" type="string"<|sep|>',
            after_key_other=f'" type="{ID}"<|sep|>',
            between='<|close|>argument<|sep|><|open|>argument key="',
            close="<|close|>argument<|sep|>",
        ),
    )
    thought = ThoughtFormat(
        open="<|open|>think<|sep|>",
        close="<|close|>think<|sep|>",
        off={"thinking": False},
    )
    return replace(
        form,
        thought=thought,
        text_open="<|open|>response<|sep|>",
        text_close="<|close|>response<|sep|>",
        dropped=("<|close|>message<|sep|>",),
        calls=calls,
    )
