"""Reads a chat format off a chat template: renders chats with markers and takes the text between the markers.

The format proves itself: it must predict how the template writes another thought, other names and values, and three
calls. What it does not predict is dropped. The template may be hostile: all renderings share one time budget, and
literals are short.
"""

from functools import lru_cache

from ggserve.chat.exceptions import corrected
from ggserve.chat.format import ChatFormat
from ggserve.chat.reading.calls import read_calls
from ggserve.chat.reading.probe import OutOfTime, Probe
from ggserve.chat.reading.proof import prove
from ggserve.chat.reading.text import read_content, read_refusals, read_text
from ggserve.chat.reading.thoughts import read_switches, read_thought
from ggserve.chat.template import ChatTemplate
from ggserve.errors import TemplateError

_SECONDS = 1.0  # seconds for all renderings
_STEPS = (read_content, read_refusals, read_text, read_thought, read_switches, read_calls, prove)


def read_format(template: ChatTemplate, seconds: float = _SECONDS) -> ChatFormat:
    """Return the format of a template; what cannot be read off in time is left out."""
    probe = Probe(template, seconds)
    try:
        for step in _STEPS:
            step(probe)
    except OutOfTime:
        return ChatFormat()
    return corrected(probe.form, template.source)


@lru_cache(16)
def format_of(source: str) -> ChatFormat:
    """Return the format of a template's source, without a model's texts for BOS and EOS; an empty one if it does not
    compile."""
    try:
        return read_format(ChatTemplate(source))
    except TemplateError:
        return ChatFormat()
