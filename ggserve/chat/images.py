"""Images of a chat in the form for native code: decoded here, reduced to the size that models use, and encoded again.

llama.cpp's decoders never see a client's bytes.
"""

import base64
import binascii
import io
from collections.abc import Mapping, Sequence
from typing import Any

from ggserve.errors import InvalidRequest

MOST_IMAGES = 64
"""Of one request."""
MOST_PIXELS = 40_000_000
"""Of one image."""
MOST_PIXELS_TOGETHER = 80_000_000
"""Of all images of one request."""

_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")
_SHOWN_PIXELS = 4_000_000  # larger images are reduced to this; vision models use 3.2 million at most
_LONGEST_SIDE = 16_000  # pixels
_FASTEST = 1  # zlib level
_CHUNK = 3 << 18  # bytes of base64 decoded at a time: other threads run in between


def with_clean_images(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with each image as a PNG that was encoded here. Takes seconds for large images: call it in a
    thread. Raises InvalidRequest."""
    urls = [part["image_url"]["url"] for message in messages for part in _images(message)]
    if len(urls) > MOST_IMAGES:
        raise InvalidRequest(f"The request has {len(urls)} images; the limit is {MOST_IMAGES}.")
    files = [_file(url) for url in urls]
    sizes = [_pixels(file) for file in files]
    if sum(sizes) > MOST_PIXELS_TOGETHER:
        raise InvalidRequest(
            f"The images have {sum(sizes)} pixels in total; the limit is {MOST_PIXELS_TOGETHER}: make them smaller."
        )
    clean = iter([_png_url(file) for file in files])
    return [_with_images(message, clean) for message in messages]


def _images(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = message.get("content")
    return [part for part in content if part.get("type") == "image_url"] if isinstance(content, list) else []


def _with_images(message: dict[str, Any], urls: Any) -> dict[str, Any]:
    if not _images(message):
        return message
    parts = [
        {**part, "image_url": {"url": next(urls)}} if part.get("type") == "image_url" else part
        for part in message["content"]
    ]
    return {**message, "content": parts}


def _file(url: str) -> bytes:
    data = url.partition(",")[2]
    step = _CHUNK // 3 * 4
    try:
        chunks = (data[start : start + step] for start in range(0, len(data), step))
        return b"".join(binascii.a2b_base64(chunk, strict_mode=True) for chunk in chunks)
    except ValueError as error:
        raise InvalidRequest(f"the image cannot be read: {error}") from None


def _opened(file: bytes) -> Any:
    from PIL import Image, UnidentifiedImageError  # imported here so that only requests with images pay for it

    try:
        return Image.open(io.BytesIO(file), formats=_FORMATS)
    except UnidentifiedImageError:
        raise InvalidRequest(f"the image cannot be read: its format is not one of {', '.join(_FORMATS)}") from None
    except Exception as error:  # Pillow's readers raise any exception
        raise InvalidRequest(f"the image cannot be read: {error}") from None


def _pixels(file: bytes) -> int:
    with _opened(file) as image:
        pixels: int = image.width * image.height
        if pixels > MOST_PIXELS:
            raise InvalidRequest(f"the image has {pixels} pixels; the limit is {MOST_PIXELS}")
        if max(image.size) > _LONGEST_SIDE:
            raise InvalidRequest(f"the image has a side of {max(image.size)} pixels; the limit is {_LONGEST_SIDE}")
    return pixels


def _png_url(file: bytes) -> str:
    with _opened(file) as image:
        factor = min(1.0, (_SHOWN_PIXELS / (image.width * image.height)) ** 0.5)
        size = tuple(max(1, int(side * factor)) for side in image.size)
        try:
            image.draft("RGB", size)  # a JPEG is decoded at a fraction of its size
            image.load()
        except Exception as error:  # Pillow's decoders raise any exception
            raise InvalidRequest(f"the image cannot be read: {error}") from None
        if image.mode.startswith("I"):  # 16 bits
            image = image.convert("I").point(lambda value: value / 256).convert("L")
        image = image.convert("RGB")
        return _data_url(image if factor == 1 else image.resize(size, reducing_gap=3.0))


def _data_url(image: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=_FASTEST)
    png = buffer.getbuffer()
    chunks = (base64.b64encode(png[start : start + _CHUNK]) for start in range(0, len(png), _CHUNK))
    return f"data:image/png;base64,{b''.join(chunks).decode()}"
