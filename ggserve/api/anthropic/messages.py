"""`POST /v1/messages`, the assistant's next message, whole or streamed, and `/v1/messages/count_tokens`."""

from fastapi import APIRouter, Request, Response

from ggserve.api.admission import GeneratingRoute
from ggserve.api.anthropic.answer import MessageAnswer
from ggserve.api.anthropic.conversation import conversation
from ggserve.api.anthropic.errors import ANTHROPIC_ERRORS
from ggserve.api.anthropic.schemas import MessagesRequest, PromptRequest
from ggserve.api.blocks import typed_events, whole
from ggserve.api.dependencies import Generator, Record, require, require_sight
from ggserve.api.errors import APIError
from ggserve.api.openai.images import have_images
from ggserve.api.streaming import EventStream, await_first, json_response, while_connected

router = APIRouter(route_class=GeneratingRoute, tags=["messages"], responses=ANTHROPIC_ERRORS)


@router.post("/v1/messages", responses=EventStream.RESPONSES)
async def messages(body: MessagesRequest, request: Request, model: Generator, record: Record) -> Response:
    """The assistant's next message, whole or streamed."""
    require(model, "generation", "model")
    chat, begun = conversation(body)
    require_sight(model, chat, "messages")
    if begun and have_images(chat):
        raise APIError(400, "an answer to images cannot be begun", param="messages")
    deltas = record.watch(
        model.chat(
            chat,
            body.sampling_params(),
            tools=body.called_tools,
            begun=begun,
            template_arguments=body.template_arguments,
        )
    )
    answer = MessageAnswer(body, model.name, model.context_length)
    if body.stream:
        running = await while_connected(request, await_first(deltas))
        return EventStream(typed_events(running, answer))
    await while_connected(request, whole(deltas, answer))
    return json_response(answer.message)


@router.post("/v1/messages/count_tokens")
async def count_tokens(body: PromptRequest, model: Generator) -> dict[str, int]:
    """The tokens of the prompt that the same fields make in `/v1/messages`."""
    require(model, "generation", "model")
    chat, begun = conversation(body)
    require_sight(model, chat, "messages", counted=True)
    return {
        "input_tokens": await model.count_chat(
            chat, tools=body.called_tools, begun=begun, template_arguments=body.template_arguments
        )
    }
