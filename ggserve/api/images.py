"""Images in messages, as data URLs. Decoding is left to others.

Other URLs are rejected: fetching a URL from a client would let it send requests from this machine.
"""

from collections.abc import Sequence
from typing import Any


def check_image(url: str) -> None:
    """Check that `url` is the data URL of an image. Raises ValueError with a text for the client."""
    head = url[:100].partition(",")[0]
    if not (head.startswith("data:image/") and head.endswith(";base64")):
        raise ValueError("an image must be a data URL (data:image/png;base64,...); this server does not fetch URLs")


def base64_url(data: str) -> str:
    """Return the data URL of a base64 image. Its type is detected from its bytes when it is decoded."""
    return f"data:image/png;base64,{data}"


def image_part(url: str) -> dict[str, Any]:
    """Return an image as a content part of a message."""
    return {"type": "image_url", "image_url": {"url": url}}


def text_part(text: str) -> dict[str, Any]:
    """Return a text as a content part next to images."""
    return {"type": "text", "text": text}


def have_images(messages: Sequence[dict[str, Any]]) -> bool:
    """Return whether a chat has images: only then is a message's content a list."""
    return any(isinstance(message.get("content"), list) for message in messages)
