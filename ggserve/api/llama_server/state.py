"""`GET /props` and `/slots`, for clients of llama-server that ask."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request

from ggserve.api.bodies import JSONRoute
from ggserve.api.call import Call, LoadedModel, call_of
from ggserve.api.llama_server.schemas import SlotRequest
from ggserve.generation import SamplingParams

router = APIRouter(route_class=JSONRoute, tags=["server"])
_SHOWN = ("temperature", "top_k", "top_p", "min_p", "presence_penalty", "frequency_penalty", "max_tokens", "seed")


@router.get("/props")
async def props(request: Request, model: LoadedModel) -> dict[str, Any]:
    """The model's chat template, its context, and how tokens are chosen where nothing is said."""
    defaults = asdict(SamplingParams()) | model.sampling
    params = {name: defaults[name] for name in _SHOWN} | {"repeat_penalty": defaults["repetition_penalty"]}
    return {
        "default_generation_settings": {"n_ctx": model.context_length, "params": params},
        "total_slots": model.parallel,
        "model_alias": model.name,
        "model_path": model.path.name,
        "chat_template": model.facts.chat_template or "",
        "modalities": {"vision": "images" in model.features, "audio": False},
        "build_info": f"ggserve {request.app.version}",
    }


@router.post("/slots/{number}")
async def act_on_slot(
    number: int,
    action: Literal["save", "restore", "erase"],
    call: Annotated[Call[SlotRequest], Depends(call_of(SlotRequest))],
) -> dict[str, Any]:
    """Save a slot's prompt to a file in PROMPT_CACHE_DIR, restore it, or erase the slot."""
    return await call.model.act_on_slot(number, action, call.body.filename)


@router.get("/slots")
async def slots(model: LoadedModel) -> list[dict[str, Any]]:
    """Which slots are at work; what they say is their users' business."""
    busy = model.parallel - model.occupancy.idle
    return [
        {"id": index, "n_ctx": model.context_length, "is_processing": index < busy} for index in range(model.parallel)
    ]
