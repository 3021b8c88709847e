"""What a request needs of its model: a 400 that names the field where the model cannot do it."""

from typing import Any

from ggserve.api.errors import APIError
from ggserve.api.images import have_images
from ggserve.generation import Feature
from ggserve.model.gguf_model import GGUFModel

_UNSEEN = "[image: this model has no vision]"


def require(model: GGUFModel, feature: Feature, field: str) -> None:
    """Raises a 400 that names `field` unless the model's engine has the feature."""
    if feature in model.features:
        return
    if feature == "generation":
        use = "ranks documents" if "rerank" in model.features else "makes embeddings"
        path = "/v1/rerank" if "rerank" in model.features else "/v1/embeddings"
        message = f"{model.name} {use} and does not generate text: use {path}"
    elif feature == "rerank":
        message = f"{model.name} does not rank documents: that needs a GGUF of a reranker"
    elif feature == "images":
        message = f"{model.name} sees no images: a model that does needs its projector, MMPROJ_PATH"
    else:
        message = f"the {model.engine_name} engine makes no embeddings of {model.name}"
    raise APIError(400, message, param=field, code="unsupported_parameter")


def visible(
    model: GGUFModel, messages: list[dict[str, Any]], field: str, *, counted: bool = False
) -> list[dict[str, Any]]:
    """The messages as the model can see them: for one without vision, images of earlier turns and of tool results are
    replaced by a short text. Raises a 400 that names `field` where the last user message has images and the model has
    no vision, or where the tokens of images are to be `counted`."""
    if not have_images(messages):
        return messages
    if "images" in model.features:
        if counted:
            raise APIError(400, "the tokens of images cannot be counted before the answer", param=field)
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
    """Raises a 400 that names `field` unless the model can fill in the middle of a text."""
    if objection := model.infill_objection:
        message = f"{model.name} cannot fill in the middle: {objection}"
        raise APIError(400, message, param=field, code="unsupported_parameter")
