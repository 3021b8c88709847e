"""Checks that the model supports what a request needs: a 400 that names the field if not."""

from typing import Any

from ggserve.api.errors import APIError
from ggserve.api.images import have_images
from ggserve.generation import Feature
from ggserve.model.gguf_model import GGUFModel

_UNSEEN = "[image: this model has no vision]"


def require(model: GGUFModel, feature: Feature, field: str) -> None:
    """Raise a 400 that names `field` unless the model's engine has the feature."""
    if feature in model.features:
        return
    if feature == "generation":
        use = "ranks documents" if "rerank" in model.features else "makes embeddings"
        path = "/v1/rerank" if "rerank" in model.features else "/v1/embeddings"
        message = f"{model.name} {use} and does not generate text: use {path}"
    elif feature == "rerank":
        message = f"{model.name} cannot rank documents: use a reranker model in GGUF"
    elif feature == "images":
        message = f"{model.name} does not support images: use a vision model, with its projector in MMPROJ_PATH"
    else:
        message = f"the {model.engine_name} engine cannot make embeddings with {model.name}"
    raise APIError(400, message, param=field, code="unsupported_parameter")


def visible(
    model: GGUFModel, messages: list[dict[str, Any]], field: str, *, counted: bool = False
) -> list[dict[str, Any]]:
    """Return the messages that the model can process. Without vision, images in earlier turns and tool results are
    replaced by a short text. Raises a 400 that names `field` if the last user message has images and the model has no
    vision, or if image tokens would have to be `counted`."""
    if not have_images(messages):
        return messages
    if "images" in model.features:
        if counted:
            raise APIError(400, "image tokens cannot be counted in advance", param=field)
        return messages
    asking = next((index for index in reversed(range(len(messages))) if messages[index]["role"] == "user"), None)
    if asking is not None and isinstance(messages[asking]["content"], list):
        require(model, "images", field)
    return [
        {**message, "content": "".join(part.get("text", _UNSEEN) for part in message["content"])}
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


def require_infill(model: GGUFModel, field: str) -> None:
    """Raise a 400 that names `field` unless the model supports fill-in-the-middle."""
    if objection := model.infill_objection:
        message = f"{model.name} does not support fill-in-the-middle: {objection}"
        raise APIError(400, message, param=field, code="unsupported_parameter")
