"""`POST /tokenize`, `/detokenize` and `/apply-template`, named and shaped as in llama.cpp's server, and vLLM's
`/tokenizer_info`.

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
    """Token ids of a text; with pieces, the text of each, or its bytes where they are no whole characters."""
    body, model = call.body, call.model
    ids = model.tokenize(body.content, add_special=body.add_special, parse_special=body.parse_special)
    if not body.with_pieces:
        return {"tokens": ids}
    return {"tokens": [{"id": token, "piece": _piece(raw)} for token, raw in zip(ids, model.pieces(ids), strict=True)]}


@router.post("/detokenize")
def detokenize(call: Annotated[Call[DetokenizeRequest], Depends(call_of(DetokenizeRequest))]) -> dict[str, str]:
    """The text of token ids, special tokens included; `prompt` is vLLM's name of it."""
    text = call.model.detokenize(call.body.tokens, skip_special=False)
    return {"content": text, "prompt": text}


@router.get("/tokenizer_info")
def tokenizer_info(model: LoadedModel) -> dict[str, str | None]:
    """How the model spells its special tokens, and its chat template: what clients need that leave tokens to it."""
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
