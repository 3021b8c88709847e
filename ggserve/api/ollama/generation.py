"""`POST /api/chat` and `/api/generate`: lines of JSON as they come, or one with `"stream": false`."""

from collections.abc import AsyncGenerator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response

from ggserve.api.access import RequestRecord
from ggserve.api.admission import GeneratingRoute
from ggserve.api.dependencies import Record, leased_generator, require, require_infill, require_sight, wanted_model
from ggserve.api.ollama.answer import OllamaAnswer, collected, lines
from ggserve.api.ollama.errors import OLLAMA_ERRORS
from ggserve.api.ollama.schemas import ChatRequest, GenerateRequest, GenerationRequest, Message
from ggserve.api.openai.images import base64_url, image_part, text_part
from ggserve.api.state import state_of
from ggserve.api.streaming import EventStream, await_first, json_response, while_connected
from ggserve.generation import Delta
from ggserve.model.gguf_model import GGUFModel

router = APIRouter(route_class=GeneratingRoute, tags=["ollama"], responses=OLLAMA_ERRORS)
_LINES = {200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}, "description": "The answer."}}


async def _generator(request: Request) -> GGUFModel | None:
    """The model to compute with; None where the request only unloads it: nothing to answer, and `keep_alive` 0."""
    body = await request.json()
    if isinstance(body, dict) and not (body.get("messages") or body.get("prompt")):
        named, keep_alive = wanted_model(body)
        if keep_alive == 0:
            await state_of(request.scope).models.unload(named)
            return None
    return await leased_generator(request)


OllamaGenerator = Annotated[GGUFModel | None, Depends(_generator)]


@router.post("/api/chat", responses=_LINES)  # type: ignore[arg-type]
async def chat(body: ChatRequest, request: Request, model: OllamaGenerator, record: Record) -> Response:
    """The assistant's next message."""
    if model is None:
        return _unloaded(body, record, chat=True)
    require(model, "generation", "model")
    if not body.messages:
        return _loaded(model, record, chat=True)
    messages = chat_messages(body.messages)
    require_sight(model, messages, "messages")
    deltas = model.chat(
        messages, body.sampling_params(), tools=body.called_tools, template_arguments=body.template_arguments
    )
    return await _answer(body, request, model, record, deltas, chat=True)


@router.post("/api/generate", responses=_LINES)  # type: ignore[arg-type]
async def generate(body: GenerateRequest, request: Request, model: OllamaGenerator, record: Record) -> Response:
    """The answer to a prompt, with `raw` its continuation, or what belongs between it and a `suffix`."""
    if model is None:
        return _unloaded(body, record, chat=False)
    require(model, "generation", "model")
    if not body.prompt:
        return _loaded(model, record, chat=False)
    if body.suffix:
        require_infill(model, "suffix")
        deltas = model.infill(body.prompt, body.suffix, body.sampling_params())
    elif body.raw:
        deltas = model.complete(body.prompt, body.sampling_params())
    else:
        system = [{"role": "system", "content": body.system}] if body.system else []
        messages: list[dict[str, Any]] = [*system, {"role": "user", "content": _content(body.prompt, body.images)}]
        require_sight(model, messages, "images")
        deltas = model.chat(messages, body.sampling_params(), template_arguments=body.template_arguments)
    return await _answer(body, request, model, record, deltas, chat=False)


async def _answer(
    body: GenerationRequest,
    request: Request,
    model: GGUFModel,
    record: RequestRecord,
    deltas: AsyncGenerator[Delta, None],
    *,
    chat: bool,
) -> Response:
    answer = OllamaAnswer(model.name, record, chat=chat, scored=bool(body.logprobs))
    deltas = record.watch(deltas)
    if body.stream is not False:
        running = await while_connected(request, await_first(deltas))
        return EventStream(lines(running, answer), media_type="application/x-ndjson")
    return json_response(await while_connected(request, collected(deltas, answer)))


def _loaded(model: GGUFModel, record: RequestRecord, *, chat: bool) -> Response:
    """Ollama's clients load a model by asking nothing of it."""
    return json_response(OllamaAnswer(model.name, record, chat=chat, scored=False).empty("load"))


def _unloaded(body: GenerationRequest, record: RequestRecord, *, chat: bool) -> Response:
    return json_response(OllamaAnswer(body.model or "", record, chat=chat, scored=False).empty("unload"))


def _content(text: str, images: list[str] | None) -> str | list[dict[str, Any]]:
    return [text_part(text), *(image_part(base64_url(image)) for image in images)] if images else text


def chat_messages(messages: list[Message]) -> list[dict[str, Any]]:
    """Messages as chat templates expect them. Ollama's calls have no ids: results belong to them in their order."""
    converted = []
    made = answered = 0
    for message in messages:
        fields: dict[str, Any] = {"role": message.role, "content": _content(message.content or "", message.images)}
        if message.thinking:
            fields["reasoning_content"] = message.thinking
        if message.tool_calls:
            fields["tool_calls"] = [
                {
                    "id": f"call_{made + index}",
                    "type": "function",
                    "function": {
                        "name": call.function.name,
                        "arguments": orjson.dumps(call.function.arguments).decode(),
                    },
                }
                for index, call in enumerate(message.tool_calls)
            ]
            made += len(message.tool_calls)
        if message.role == "tool":
            fields |= {"tool_call_id": f"call_{answered}", **({"name": message.tool_name} if message.tool_name else {})}
            answered += 1
        converted.append(fields)
    return converted
