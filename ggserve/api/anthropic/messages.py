"""`POST /v1/messages`, the assistant's next message, complete or streamed, and `/v1/messages/count_tokens`."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from ggserve.api.admission import GeneratingRoute
from ggserve.api.answers import Answers
from ggserve.api.anthropic.conversation import conversation
from ggserve.api.anthropic.errors import ANTHROPIC_ERRORS
from ggserve.api.anthropic.schemas import MessagesRequest, PromptRequest
from ggserve.api.anthropic.writer import WAITING, MessageWriter
from ggserve.api.call import Call, call_of
from ggserve.api.features import require, visible
from ggserve.api.streaming import EventStream, respond

router = APIRouter(route_class=GeneratingRoute, tags=["messages"], responses=ANTHROPIC_ERRORS)


@router.post("/v1/messages", responses=EventStream.RESPONSES)
async def messages(
    call: Annotated[Call[MessagesRequest], Depends(call_of(MessagesRequest, lambda body: WAITING))],
) -> Response:
    """The assistant's next message, complete or streamed."""
    body, model = call.body, call.model
    require(model, "generation", "model")
    chat, begun, begun_thought = conversation(body)
    chat = visible(model, chat, "messages")
    generate = partial(
        model.chat,
        chat,
        tools=body.called_tools,
        begun=begun,
        begun_thought=begun_thought,
        template_arguments=body.template_arguments,
        documents=body.quoted,
        shows_documents=True,
    )
    writer = MessageWriter(body, model.name, model.context_length)
    return await respond(
        call.request, Answers(call.record.watch(generate, body.sampling_params())), writer, stream=bool(body.stream)
    )


@router.post("/v1/messages/count_tokens")
async def count_tokens(call: Annotated[Call[PromptRequest], Depends(call_of(PromptRequest))]) -> dict[str, int]:
    """The number of tokens in the prompt that the same fields make in `/v1/messages`."""
    body, model = call.body, call.model
    require(model, "generation", "model")
    chat, begun, begun_thought = conversation(body)
    chat = visible(model, chat, "messages", counted=True)
    return {
        "input_tokens": await model.count_chat(
            chat,
            tools=body.called_tools,
            begun=begun,
            begun_thought=begun_thought,
            template_arguments=body.template_arguments,
        )
    }
