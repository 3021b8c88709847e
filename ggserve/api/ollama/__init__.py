"""Ollama's API."""

from fastapi import APIRouter

from ggserve.api.dialect import Dialect
from ggserve.api.ollama import embeddings, generation, manage, models
from ggserve.api.ollama.errors import ollama_envelope

_router = APIRouter()
for _module in (generation, embeddings, models, manage):
    _router.include_router(_module.router)

DIALECT = Dialect(_router, "/api", ollama_envelope)
