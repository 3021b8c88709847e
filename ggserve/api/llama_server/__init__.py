"""llama-server's own endpoints, besides OpenAI's: completions, reranking, infill, tokens, state, models.

Errors are in OpenAI's format.
"""

from fastapi import APIRouter

from ggserve.api.dialect import Dialect
from ggserve.api.errors import openai_envelope
from ggserve.api.llama_server import aliases, completion, infill, rerank, router, state, tokens

_router = APIRouter()
for _module in (aliases, completion, rerank, infill, state, tokens, router):
    _router.include_router(_module.router)

DIALECT = Dialect(_router, "/", openai_envelope)
