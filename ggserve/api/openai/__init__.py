"""OpenAI's API: completions, chat completions, responses, embeddings, models. Its error format is the default."""

from fastapi import APIRouter

from ggserve.api.dialect import Dialect
from ggserve.api.errors import openai_envelope
from ggserve.api.openai import chat, completions, decisions, embeddings, models
from ggserve.api.openai.responses import endpoint as responses

_router = APIRouter()
for _module in (completions, chat, responses, decisions, embeddings, models):
    _router.include_router(_module.router)

DIALECT = Dialect(_router, "/", openai_envelope)
