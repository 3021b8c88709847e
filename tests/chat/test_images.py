"""Images of a chat: decoded, bounded and encoded again."""

import base64
import io
import zlib
from typing import Any

import pytest
from PIL import Image

from ggserve.chat.images import MOST_IMAGES, with_clean_images
from ggserve.errors import InvalidRequest


def url_of(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def file_of(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chat(*files: bytes) -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": {"url": url_of(file), "detail": "low"}} for file in files]
    return [{"role": "system", "content": "S"}, {"role": "user", "content": [{"type": "text", "text": "?"}, *parts]}]


def clean(*files: bytes) -> list[Image.Image]:
    messages = with_clean_images(chat(*files))
    assert messages[0] == {"role": "system", "content": "S"}
    text, *parts = messages[1]["content"]
    assert text == {"type": "text", "text": "?"}
    return [Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2]))) for part in parts]


def refusal(*files: bytes) -> str:
    with pytest.raises(InvalidRequest) as refused:
        with_clean_images(chat(*files))
    return str(refused.value)


def damaged_png() -> bytes:
    """Pixel data that is not a zlib stream, under correct checksums."""
    png = file_of(Image.new("RGB", (64, 64), "red"))
    start = png.index(b"IDAT")
    length = int.from_bytes(png[start - 4 : start])
    chunk = b"IDAT" + b"\x55" * length
    return png[:start] + chunk + zlib.crc32(chunk).to_bytes(4) + png[start + 8 + length :]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_every_format_becomes_the_same_png(form: str) -> None:
    (image,) = clean(file_of(Image.new("RGB", (40, 20), "red"), form))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (40, 20))
    red, green, blue = image.getpixel((20, 10))
    assert (red > 250, green < 5, blue < 5) == (True, True, True)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_every_mode_becomes_colours(mode: str) -> None:
    white = {"I;16": 65535, "CMYK": (0, 0, 0, 0)}.get(mode, "white")
    (image,) = clean(file_of(Image.new(mode, (8, 8), white), "JPEG" if mode == "CMYK" else "PNG"))
    assert image.mode == "RGB"
    assert min(image.getpixel((4, 4))) > 250


def test_a_large_image_is_made_smaller() -> None:
    for form in ("PNG", "JPEG"):
        (image,) = clean(file_of(Image.new("RGB", (4000, 3000), "blue"), form))
        assert image.width * image.height <= 4_000_000
        assert abs(image.width / image.height - 4 / 3) < 0.01


def test_what_is_no_image_is_refused() -> None:
    good = file_of(Image.new("RGB", (64, 64), "red"))
    for bad in (b"", b"hello", b"\0" * 100, good[:60], damaged_png(), b"RIFF\0\0\0\0WEBPVP8 ", b"\x89PNG\r\n\x1a\n"):
        assert "cannot be read" in refusal(bad)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        with_clean_images([{"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,A"}}]}])


def test_pixels_and_images_are_bounded() -> None:
    huge = file_of(Image.new("1", (6400, 6400)))
    assert "pixels" in refusal(huge)
    large = file_of(Image.new("1", (6300, 6300)))
    assert "in total" in refusal(large, large, large)
    assert "side" in refusal(file_of(Image.new("1", (20_000, 1))))
    small = file_of(Image.new("1", (1, 1)))
    assert "images" in refusal(*[small] * (MOST_IMAGES + 1))
    assert len(clean(*[small] * MOST_IMAGES)) == MOST_IMAGES
