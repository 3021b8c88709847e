"""Images in messages: data URLs. They are decoded later, in `chat.images`.

Other URLs are rejected: fetching them would let clients send requests from this machine.
"""

from collections.abc import Sequence
from typing import Any


def check_image(url: str) -> None:
    """Raise ValueError, with a message for the client, unless `url` is the data URL of an image."""
    head = url[:100].partition(",")[0]
    if not (head.startswith("data:image/") and head.endswith(";base64")):
        raise ValueError("an image must be a data URL (data:image/png;base64,...); this server fetches no others")


def base64_url(data: str) -> str:
    """Return the data URL of an image in base64. The decoder recognizes the type from its bytes."""
    return f"data:image/png;base64,{data}"


def image_part(url: str) -> dict[str, Any]:
    """Return an image as a part of a chat message."""
    return {"type": "image_url", "image_url": {"url": url}}


def text_part(text: str) -> dict[str, Any]:
    """Return a text as a part beside images."""
    return {"type": "text", "text": text}


def have_images(messages: Sequence[dict[str, Any]]) -> bool:
    """Return whether a chat has images: the content of such a message is a list."""
    return any(isinstance(message.get("content"), list) for message in messages)
