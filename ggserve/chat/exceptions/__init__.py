"""Formats that rendering does not show, or not completely. Each module recognizes its templates (`is_...`) and corrects
the format; it is one short file that begins with a raw example."""

from ggserve.chat.exceptions import (
    apertus,
    gemma4,
    gpt_oss,
    granite3,
    kimi_k3,
    lfm2,
    minicpm5,
    minimax_m3,
    mistral,
    muse,
)
from ggserve.chat.format import ChatFormat

_ALL = (apertus, gemma4, gpt_oss, granite3, kimi_k3, lfm2, minicpm5, minimax_m3, mistral, muse)


def corrected(form: ChatFormat, source: str) -> ChatFormat:
    """Return the format that was read off a template's source, corrected if the template is among the exceptions."""
    for module in _ALL:
        if module.applies(source):
            form = module.corrected(form)
    return form
