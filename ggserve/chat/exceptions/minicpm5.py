"""MiniCPM5. It writes raw values, with special characters in CDATA:

<function name="look"><param name="at"><![CDATA[a < b]]></param><param name="times">2</param></function>
"""

from dataclasses import replace

from ggserve.chat.format import ArgumentsFormat, CallsFormat, ChatFormat


def applies(source: str) -> bool:
    """Return whether a template is one of them."""
    return '<function name="' in source and '<param name="' in source and "<![CDATA[" in source


def corrected(form: ChatFormat) -> ChatFormat:
    """Return the format with calls."""
    calls = CallsFormat(
        first='<function name="',
        after_name='">',
        next='</function><function name="',
        last="</function>",
        arguments=ArgumentsFormat(
            syntax="parameters",
            open='<param name="',
            after_key='">',
            between='</param><param name="',
            close="</param>",
            cdata=True,
        ),
    )
    return replace(form, calls=calls)
