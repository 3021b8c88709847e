"""Anthropic's Messages API."""

from ggserve.api.anthropic.errors import anthropic_envelope
from ggserve.api.anthropic.messages import router
from ggserve.api.dialect import Dialect

DIALECT = Dialect(router, "/v1/messages", anthropic_envelope)
