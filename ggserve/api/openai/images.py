"""Images in messages: data URLs, checked before native code decodes them.

Other URLs are refused: fetching what a client names would let it ask in this machine's name.
"""

import base64
import binascii
import io
from collections.abc import Sequence
from typing import Any

_MOST_PIXELS = 40_000_000
_FORMATS = ("PNG", "JPEG", "GIF", "BMP")  # that llama.cpp decodes


def check_image(url: str) -> None:
    """Raises ValueError, whose text is for the client, unless `url` holds an image of a sane size."""
    from PIL import Image, UnidentifiedImageError  # only whoever sends images pays for its import

    head, comma, data = url.partition(",")
    if not (head.startswith("data:image/") and head.endswith(";base64") and comma):
        raise ValueError("an image must be a data URL (data:image/png;base64,...); this server fetches no others")
    try:
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=_FORMATS) as image:
            pixels = image.width * image.height
            image.verify()
    except UnidentifiedImageError:
        raise ValueError(f"the image cannot be read: it is none of {', '.join(_FORMATS)}") from None
    except (binascii.Error, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the image cannot be read: {error}") from None
    if pixels > _MOST_PIXELS:
        raise ValueError(f"the image has {pixels} pixels, and {_MOST_PIXELS} are the most")


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
