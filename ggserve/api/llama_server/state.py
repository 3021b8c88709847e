"""`GET /props`, `/slots` and `/lora-adapters`, for clients and monitoring of llama-server."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request

from ggserve.api.bodies import JSONRoute
from ggserve.api.call import Call, LoadedModel, call_of
from ggserve.api.errors import APIError
from ggserve.api.llama_server.objects import settings_object
from ggserve.api.llama_server.schemas import SlotRequest
from ggserve.api.metrics import LiveAnswer
from ggserve.api.prompts import miss_object
from ggserve.api.state import state_of
from ggserve.generation import LLAMA_CPP_SAMPLERS, SamplingParams
from ggserve.model.gguf_model import GGUFModel

router = APIRouter(route_class=JSONRoute, tags=["server"])


@router.get("/props")
async def props(request: Request, model: LoadedModel) -> dict[str, Any]:
    """The model's chat template, its context length, and the default sampling parameters of `/completion`."""
    facts = model.tokenizer_facts
    template = facts["chat_template"] or ""
    defaults = replace(SamplingParams(samplers=LLAMA_CPP_SAMPLERS), **model.sampling)
    return {
        "default_generation_settings": {"n_ctx": model.context_length, "params": settings_object(defaults, model)},
        "total_slots": model.parallel,
        "model_alias": model.name,
        "model_path": model.path.name,
        "bos_token": facts["bos_token"] or "",
        "eos_token": facts["eos_token"] or "",
        "chat_template": template,
        "chat_template_caps": {
            "supports_tools": "tools" in template,
            "supports_tool_calls": "tool_calls" in template,
            "supports_system_role": "system" in template,
        },
        "modalities": {"vision": "images" in model.features, "audio": False},
        "endpoint_slots": True,
        "endpoint_props": False,
        "endpoint_metrics": True,
        "is_sleeping": False,
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
async def slots(
    request: Request, model: LoadedModel, fail_on_no_slot: Annotated[bool, Query()] = False
) -> list[dict[str, Any]]:
    """The slots and the progress of their answers, without any text, which is private to its user.

    With `fail_on_no_slot`, returns a 503 if all slots are busy.
    """
    if fail_on_no_slot and model.occupancy.idle == 0:
        raise APIError(503, "All slots are busy.", type="unavailable_error", code="no_slot_available")
    live = state_of(request.scope).metrics.live.values()
    running = {answer.prompt.slot: answer for answer in live if answer.model == model.name}
    running.pop(None, None)  # those that wait
    busy = model.parallel - model.occupancy.idle
    evaluating = busy - len(running)  # embeddings and scores
    found = []
    for number in range(model.parallel):
        answer = running.get(number)
        if answer is None and evaluating > 0:
            evaluating -= 1
            found.append(_slot(number, model, busy=True))
        else:
            found.append(_slot(number, model, busy=answer is not None, answer=answer))
    return found


@router.get("/lora-adapters")
async def lora_adapters(model: LoadedModel) -> list[dict[str, Any]]:
    """The active LoRA adapters."""
    return [
        {"id": number, "path": path.name, "scale": scale} for number, (path, scale) in enumerate(model.lora_adapters)
    ]


def _slot(number: int, model: GGUFModel, *, busy: bool, answer: LiveAnswer | None = None) -> dict[str, Any]:
    slot: dict[str, Any] = {
        "id": number,
        "id_task": answer.task if answer else -1,
        "n_ctx": model.context_length,
        "speculative": model.speculates,
        "is_processing": busy,
    }
    if answer is None:
        return slot
    prompt, decoded = answer.prompt, answer.completion_tokens
    remaining = -1 if answer.max_tokens is None else answer.max_tokens - decoded
    return {
        **slot,
        "n_prompt_tokens": prompt.total,
        "n_prompt_tokens_processed": prompt.processed - prompt.cached,
        "n_prompt_tokens_cache": prompt.cached,
        "cache_miss": prompt.miss and miss_object(prompt.miss),
        "next_token": {"has_next_token": True, "n_remain": remaining, "n_decoded": decoded},
    }
