"""`POST /api/chat` and `/api/generate`: streamed lines of JSON, or a single object with `"stream": false`."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import APIRouter, Depends, Request, Response

from ggserve.api.admission import GeneratingRoute
from ggserve.api.answers import Answers
from ggserve.api.call import Call, call_of
from ggserve.api.errors import APIError
from ggserve.api.features import require, require_infill, visible
from ggserve.api.fitting import fitting
from ggserve.api.images import base64_url, image_part, text_part
from ggserve.api.ollama.errors import OLLAMA_ERRORS
from ggserve.api.ollama.schemas import ChatRequest, GenerateRequest, GenerationRequest, Message
from ggserve.api.ollama.writer import OllamaWriter, waiting
from ggserve.api.state import state_of
from ggserve.api.streaming import respond
from ggserve.generation import Delta, SamplingParams

router = APIRouter(route_class=GeneratingRoute, tags=["ollama"], responses=OLLAMA_ERRORS)
RequestT = TypeVar("RequestT", bound=GenerationRequest)
_LINES = {200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}, "description": "The answer."}}


def _call_or_response(schema: type[RequestT]) -> Callable[..., AsyncGenerator[Call[RequestT] | Response, None]]:
    """Return the dependency for a call, or the response to a request without a prompt: with `keep_alive` 0 it unloads
    its model, otherwise it loads it."""
    chat = issubclass(schema, ChatRequest)
    call = asynccontextmanager(call_of(schema, lambda body: waiting(body.model or "", chat=chat)))

    async def dependency(request: Request, body: RequestT) -> AsyncGenerator[Call[RequestT] | Response, None]:
        if body.stay == 0 and body.is_empty:
            await state_of(request.scope).models.unload(body.model)
            yield OllamaWriter(body.model or "", request.state.record, chat=chat).empty("unload")
            return
        async with call(request, body) as found:
            require(found.model, "generation", "model")
            _check_context(found)
            yield OllamaWriter(found.model.name, found.record, chat=chat).empty("load") if body.is_empty else found

    dependency.__annotations__["body"] = schema
    return dependency


@router.post("/api/chat", responses=_LINES)  # type: ignore[arg-type]
async def chat(call: Annotated[Call[ChatRequest] | Response, Depends(_call_or_response(ChatRequest))]) -> Response:
    """The assistant's next message."""
    if isinstance(call, Response):
        return call
    body, model = call.body, call.model
    messages = visible(model, chat_messages(body.messages), "messages")
    tools, arguments, limit = body.called_tools, body.template_arguments, body.sampling_params().max_tokens
    if body.truncate is not False:
        messages = await fitting(model, messages, tools, limit, arguments)
    generate = partial(model.chat, messages, tools=tools, template_arguments=arguments)
    return await _answer(call, generate, chat=True)


@router.post("/api/generate", responses=_LINES)  # type: ignore[arg-type]
async def generate(
    call: Annotated[Call[GenerateRequest] | Response, Depends(_call_or_response(GenerateRequest))],
) -> Response:
    """The answer to a prompt, with `raw` its continuation, or the text between it and a `suffix`."""
    if isinstance(call, Response):
        return call
    body, model = call.body, call.model
    if body.suffix:
        require_infill(model, "suffix")
        return await _answer(call, partial(model.infill, body.prompt, body.suffix))
    if body.raw:
        return await _answer(call, partial(model.complete, body.prompt))
    system = [{"role": "system", "content": body.system}] if body.system else []
    messages: list[dict[str, Any]] = [*system, {"role": "user", "content": _content(body.prompt, body.images)}]
    messages = visible(model, messages, "images")
    return await _answer(call, partial(model.chat, messages, template_arguments=body.template_arguments))


def _check_context(call: Call[RequestT]) -> None:
    """Raise a 400 if the request asks for a longer context than the loaded model has."""
    wanted = call.body.options.num_ctx if call.body.options else None
    length = call.model.context_length
    if wanted is not None and wanted > length:
        message = f"the model is loaded with a context of {length} tokens: raise CONTEXT_LENGTH"
        raise APIError(400, message, param="options.num_ctx")


async def _answer(
    call: Call[RequestT], generate: Callable[[SamplingParams], AsyncGenerator[Delta, None]], *, chat: bool = False
) -> Response:
    body, record = call.body, call.record
    writer = OllamaWriter(call.model.name, record, chat=chat, scored=bool(body.logprobs))
    answers = Answers(record.watch(generate, body.sampling_params()))
    return await respond(call.request, answers, writer, stream=body.streams)


def _content(text: str, images: list[str] | None) -> str | list[dict[str, Any]]:
    return [text_part(text), *(image_part(base64_url(image)) for image in images)] if images else text


def chat_messages(messages: list[Message]) -> list[dict[str, Any]]:
    """Return the messages in OpenAI's form. A tool result belongs to the call with its id, else to the first call with
    its name, else to the first call without a result."""
    converted = []
    for message in messages:
        fields: dict[str, Any] = {"role": message.role, "content": _content(message.content or "", message.images)}
        if message.thinking:
            fields["reasoning_content"] = message.thinking
        if message.tool_calls:
            fields["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": call.function.name,
                        "arguments": orjson.dumps(call.function.arguments).decode(),
                    },
                }
                for call in message.tool_calls
            ]
        if message.role == "tool":
            fields |= {"tool_call_id": message.tool_call_id, "name": message.tool_name}
        converted.append(fields)
    return converted
