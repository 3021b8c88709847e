"""Muse. It names the function twice: as the recipient of the message, and in it.

 to=self<|message|>Thought.<|eom|><|start|>assistant to=look<|message|><atem:function_calls>
<atem:invoke name="look">
<atem:parameter name="at">x</atem:parameter>
</atem:invoke>
</atem:function_calls><|eom|><|start|>assistant to=find<|message|>...
"""

from dataclasses import replace

from ggserve.chat.format import NAME, ArgumentsFormat, CallsFormat, ChatFormat

_BEGIN = f' to={NAME}<|message|><atem:function_calls>\n<atem:invoke name="'
_END = "</atem:invoke>\n</atem:function_calls>"


def applies(source: str) -> bool:
    """Return whether a template is one of them."""
    return "<atem:function_calls>" in source


def corrected(form: ChatFormat) -> ChatFormat:
    """Return the format with calls."""
    calls = CallsFormat(
        first=_BEGIN,
        after_name='">\n',
        next=f"{_END}<|eom|><|start|>assistant{_BEGIN}",
        last=_END,
        arguments=ArgumentsFormat(
            syntax="parameters",
            open='<atem:parameter name="',
            after_key='">',
            between='</atem:parameter>\n<atem:parameter name="',
            close="</atem:parameter>\n",
        ),
        others=(('<atem:function_calls>\n<atem:invoke name="', '">\n'),),
    )
    return replace(form, calls=calls, dropped=("<|eom|><|start|>assistant",))
