"""`POST /tokenize`, `/detokenize` and `/apply-template`, as in llama.cpp's server, and vLLM's `/tokenizer_info`.

Plain functions: they run in a thread, because long texts take a while.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from ggserve.api.bodies import JSONRoute
from ggserve.api.call import Call, LoadedModel, call_of
from ggserve.api.llama_server.schemas import DetokenizeRequest, TokenizeRequest
from ggserve.api.openai.schemas.chat import ChatRequest

router = APIRouter(route_class=JSONRoute, tags=["tokens"])


@router.post("/tokenize")
def tokenize(call: Annotated[Call[TokenizeRequest], Depends(call_of(TokenizeRequest))]) -> dict[str, Any]:
    """The token ids of a text; with pieces, also the text of each token, or its bytes if they are not whole characters.
    vLLM's `prompt` and `messages` return vLLM's response."""
    body, model = call.body, call.model
    if body.messages is not None:
        ids = model.tokenize_chat([message.template_message() for message in body.messages])
    else:
        added = body.content is None if body.add_special is None else body.add_special
        text = body.content if body.content is not None else body.prompt or ""
        ids = model.tokenize(text, add_special=added, parse_special=body.parse_special)
    found: dict[str, Any] = {"tokens": ids}
    if body.with_pieces:
        found["tokens"] = [
            {"id": token, "piece": _piece(raw)} for token, raw in zip(ids, model.pieces(ids), strict=True)
        ]
    if body.content is None:
        pieces = [raw.decode(errors="replace") for raw in model.pieces(ids)] if body.return_token_strs else None
        found |= {"count": len(ids), "max_model_len": model.context_length, "token_strs": pieces}
    return found


@router.post("/detokenize")
def detokenize(call: Annotated[Call[DetokenizeRequest], Depends(call_of(DetokenizeRequest))]) -> dict[str, str]:
    """The text of token ids, including special tokens; `prompt` is vLLM's name for it."""
    text = call.model.detokenize(call.body.tokens, skip_special=False)
    return {"content": text, "prompt": text}


@router.get("/tokenizer_info")
def tokenizer_info(model: LoadedModel) -> dict[str, str | None]:
    """The spelling of the model's special tokens, and its chat template, for clients that need them."""
    return model.tokenizer_facts


@router.post("/apply-template")
def apply_template(
    call: Annotated[Call[ChatRequest], Depends(call_of(ChatRequest))],
) -> dict[str, str]:
    """The prompt that the same fields make in `/v1/chat/completions`."""
    return {"prompt": call.model.render_chat(**call.body.chat())}


def _piece(raw: bytes) -> str | list[int]:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return list(raw)
