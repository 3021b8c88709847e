"""Formats that no rendering shows, or not all of them: each module knows its templates (`is_...`) and corrects what was
read off. One short file each, beginning with a raw example."""

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
    """The format as it was read off a template's source, corrected where the template is among the exceptions."""
    for module in _ALL:
        if module.applies(source):
            form = module.corrected(form)
    return form
