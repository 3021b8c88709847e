"""A real Chromium, headless, and the actions of a test on the chat page."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import axe_core_python
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.processes import PATIENCE

_AXE = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text()
_FLAGS = (
    "--headless",
    "--no-sandbox",  # as root there is none
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--lang=en",
)
# A run of the tests should not wait for long answers, or depend on chance.
_QUICK = {"temperature": 0, "max_tokens": 24}
ENDLESS = {"max_tokens": 400, "more": '{"ignore_eos": true}'}
SEA = "Write one sentence about the sea."


class Page:
    """The chat page in a browser."""

    def __init__(self, driver: webdriver.Chrome, downloads: Path) -> None:
        self.driver = driver
        self.downloads = downloads
        self.keys = Keys

    def open(self, url: str, place: str = "", *, ready: bool = True, **settings: Any) -> None:
        """Open the page as on a first visit, with these settings; wait for the model if `ready`."""
        self.driver.get(f"{url}/web/icon.svg")  # of the page's origin, and runs nothing
        self.driver.execute_script(
            "localStorage.setItem('ggserve.settings', arguments[0]); localStorage.removeItem('ggserve.notebook')",
            json.dumps({**_QUICK, **settings}),
        )
        self.driver.execute_async_script(
            """const done = arguments[0], gone = indexedDB.deleteDatabase("ggserve");
            gone.onsuccess = gone.onerror = () => done()"""
        )
        self.driver.get(f"{url}/{place}")
        if ready:
            self.wait_ready()

    def wait_ready(self) -> None:
        self.until(lambda: self.text("#model-name") and not self.shown("#connection"))

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def one(self, css: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def shown(self, css: str) -> bool:
        return any(element.is_displayed() for element in self.all(css))

    def click(self, css: str) -> None:
        """Click like a script: buttons that appear only under the mouse can be clicked too."""
        self.js("document.querySelector(arguments[0]).click()", css)

    def text(self, css: str) -> str:
        return str(self.js("return document.querySelector(arguments[0])?.textContent ?? ''", css))

    def texts(self, css: str) -> list[str]:
        return list(self.js("return [...document.querySelectorAll(arguments[0])].map((node) => node.textContent)", css))

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def press(self, *keys: str) -> None:
        """Keys for whatever has the focus."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def until(self, done: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (result := done()):
            assert time.monotonic() < deadline, f"did not come true; the page shows: {self.text('#main')}"
            time.sleep(0.03)
        return result

    def write(self, text: str) -> None:
        self.one("#message").send_keys(text, Keys.ENTER)

    def ask(self, text: str) -> str:
        """Send a message and return the whole answer."""
        before = len(self.all(".message"))
        self.write(text)
        self.until(lambda: len(self.all(".message")) == before + 2)
        return self.answer()

    def answer(self) -> str:
        """Return the last answer when it is complete."""
        self.until(lambda: self.shown(".assistant.last:not(.running) .foot"))
        return self.text(".assistant.last .body").strip()

    def import_chats(self, tmp_path: Path, *chats: dict[str, Any]) -> None:
        file = tmp_path / "chats.json"
        file.write_text(json.dumps({"format": "ggserve-chats", "version": 1, "chats": chats}))
        self.one("#import-file").send_keys(str(file))
        self.until(lambda: "imported" in self.text("#toast"))

    def stored(self) -> list[dict[str, Any]]:
        """Return the contents of IndexedDB."""
        return list(
            self.driver.execute_async_script(
                """const done = arguments[0], opening = indexedDB.open("ggserve");
                opening.onsuccess = () => {
                  const all = opening.result.transaction("chats").objectStore("chats").getAll();
                  all.onsuccess = () => { opening.result.close(); done(all.result) };
                }"""
            )
        )

    def requests(self) -> list[str]:
        """Return the addresses that were requested since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def problems(self) -> list[str]:
        """Return the messages of the browser's console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


def chat_of(*contents: str) -> dict[str, Any]:
    """A chat, as an export has it."""
    roles = ["user", "assistant"] * len(contents)
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return {
        "id": "0123456789abcdef",
        "title": contents[0],
        "created": 1,
        "updated": 1,
        "system": "",
        "messages": messages,
    }


def find_chromium() -> tuple[str, str] | None:
    """A Chromium or Chrome, and its driver."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@contextmanager
def running_chromium(found: tuple[str, str], folder: Path, *flags: str) -> Iterator[Page]:
    """A fresh browser, with its profile and its downloads in `folder`."""
    downloads = folder / "downloads"
    options = webdriver.ChromeOptions()
    options.binary_location, driver_path = found
    for flag in (*_FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", "--window-size=1280,900"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    driver.set_script_timeout(60)
    try:
        yield Page(driver, downloads)
    finally:
        driver.quit()


def audit(page: Page) -> list[str]:
    """Return the violations that axe-core finds of WCAG 2.1 A and AA, and of its best practices."""
    page.js(_AXE)
    found = page.driver.execute_async_script("axe.run().then(arguments[0])")
    return [
        f"{v['id']}: {node['html'][:120]} {node['failureSummary']}" for v in found["violations"] for node in v["nodes"]
    ]
