"""Formats of well-known models, written by hand."""

from ggserve.chat.format import ID, ArgumentsFormat, CallsFormat, ChatFormat, ThoughtFormat
from ggserve.chat.own_tools import HERMES

QWEN3 = ChatFormat(
    answer_open="<|im_start|>assistant\n",
    ends=("<|im_end|>",),
    thought=ThoughtFormat(
        open="<think>\n",
        close="\n</think>\n\n",
        none="<think>\n\n</think>\n\n",
        off={"enable_thinking": False},
    ),
    calls=HERMES,
)
MISTRAL = ChatFormat(
    ends=("</s>",),
    calls=CallsFormat(
        first="[TOOL_CALLS]",
        after_name=f"[CALL_ID]{ID}[ARGS]",
        next="[TOOL_CALLS]",
        last="",
        id_form="mistral",
    ),
)
QWEN3_CODER = ChatFormat(
    answer_open="<|im_start|>assistant\n",
    ends=("<|im_end|>",),
    calls=CallsFormat(
        first="<tool_call>\n<function=",
        after_name=">\n",
        next="</function>\n</tool_call>\n<tool_call>\n<function=",
        last="</function>\n</tool_call>",
        after_text="\n",
        arguments=ArgumentsFormat(
            syntax="parameters",
            open="<parameter=",
            after_key=">\n",
            between="\n</parameter>\n<parameter=",
            close="\n</parameter>\n",
        ),
    ),
)
LFM2 = ChatFormat(  # <|tool_call_start|>[f(a="x", n=1), g()]<|tool_call_end|>
    ends=("<|im_end|>",),
    calls=CallsFormat(
        first="<|tool_call_start|>[",
        after_name="(",
        next="), ",
        last=")]<|tool_call_end|>",
        arguments=ArgumentsFormat(syntax="parameters", after_key="=", between=", ", quote='"'),
    ),
)
GPT_OSS = ChatFormat(
    answer_open="<|start|>assistant",
    ends=("<|return|>",),
    text_open="<|channel|>final<|message|>",
    thought=ThoughtFormat(
        open="<|channel|>analysis<|message|>", close="<|end|><|start|>assistant", message_field="thinking"
    ),
    calls=CallsFormat(
        first=" to=functions.",
        after_name="<|channel|>commentary <|constrain|>json<|message|>",
        others=(("<|channel|>commentary to=functions.", " <|constrain|>json<|message|>"),),
        last="",
    ),
)
ALL = {"qwen3": QWEN3, "mistral": MISTRAL, "qwen3-coder": QWEN3_CODER, "lfm2": LFM2, "gpt-oss": GPT_OSS}
