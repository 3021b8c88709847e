"""Makes the pictures of the chat page in docs/: `python -m tests.web.screenshots` (prettier with fonts-inter)."""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.conftest import ROOT, serve
from tests.web.browser import Page, find_chromium, running_chromium

_LARGEST = 150_000  # bytes of a picture
_EARLIER = (
    "Explain gravity to a child in two sentences.",
    "Write a haiku about the sea.",
    "Explain in two sentences why the sky is blue.",
    "Give me three tips for sleeping well.",
)
_CODE = "Write a Python function that reverses a string."
_SENTENCE = "What is photosynthesis? Answer in one sentence."
# A mouse: Blink's numbers for a pointer that is fine and can hover.
_MOUSE = "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4"


def picture(page: Page, name: str) -> None:
    """Keeps what the page shows, with as many colours as fit into the size."""
    page.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    image = Image.open(io.BytesIO(page.driver.get_screenshot_as_png())).convert("RGB")
    for colours in (256, 128, 64):
        data = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
        if len(data.getvalue()) < _LARGEST:
            break
    (ROOT / "docs" / name).write_bytes(data.getvalue())
    print(f"docs/{name}: {image.width} x {image.height}, {colours} colours, {len(data.getvalue()) / 1000:.0f} kB")


def screen(page: Page, width: int, height: int, *, phone: bool = False) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": phone}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})


def main() -> None:
    found = find_chromium()
    if found is None:
        sys.exit("no Chromium with its driver: on Debian, apt-get install chromium chromium-driver")
    with tempfile.TemporaryDirectory() as name, serve(Path(name) / "logs") as server:
        with running_chromium(found, Path(name) / "desk", _MOUSE) as page:
            screen(page, 1200, 780)
            page.open(server.url, theme="light", max_tokens=250)
            for question in _EARLIER:
                page.click("#new-chat")
                page.ask(question)
            page.click("#new-chat")
            page.until(lambda: page.shown("#empty"))
            picture(page, "page-start.png")
            page.ask(_CODE)
            page.ask(_SENTENCE)
            page.click("#toggle-theme")
            page.until(lambda: page.texts(".hljs-keyword"))
            picture(page, "page-chat.png")
        with running_chromium(found, Path(name) / "phone") as page:
            screen(page, 390, 780, phone=True)
            page.open(server.url, theme="light", max_tokens=250)
            page.ask(_EARLIER[-1])
            picture(page, "page-phone.png")


if __name__ == "__main__":
    main()
