"""Images in messages: data URLs. Who answers decodes them.

Other URLs are refused: fetching what a client names would let it ask in this machine's name.
"""

from collections.abc import Sequence
from typing import Any


def check_image(url: str) -> None:
    """Raises ValueError, whose text is for the client, unless `url` is the data URL of an image."""
    head = url[:100].partition(",")[0]
    if not (head.startswith("data:image/") and head.endswith(";base64")):
        raise ValueError("an image must be a data URL (data:image/png;base64,...); this server fetches no others")


def base64_url(data: str) -> str:
    """The data URL of an image in base64. Who decodes it sees from its bytes what it is."""
    return f"data:image/png;base64,{data}"


def image_part(url: str) -> dict[str, Any]:
    """An image as a part of a chat's message."""
    return {"type": "image_url", "image_url": {"url": url}}


def text_part(text: str) -> dict[str, Any]:
    """A text beside images."""
    return {"type": "text", "text": text}


def have_images(messages: Sequence[dict[str, Any]]) -> bool:
    """Whether a chat has images: the content of such a message is a list."""
    return any(isinstance(message.get("content"), list) for message in messages)
