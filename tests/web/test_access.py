"""The page with a keyboard, a screen reader, and on a phone."""

import pytest

from tests.web.browser import ENDLESS, audit, chat_of

RICH = """# Title

Text with `code`, [a link](https://example.org) and a list:

- one
- two

> quoted

```python
# comment
x = 'a' + 1
```

| a | b |
| --- | --- |
| 1 | 2 |
"""


def test_all_of_it_works_from_the_keyboard(page, whole_server):
    keys = page.keys
    page.open(whole_server.url, **ENDLESS)
    assert page.js("return document.activeElement.id") == "message"
    page.press("One", keys.SHIFT + keys.ENTER + keys.NULL, "two")
    assert page.js("return document.activeElement.value") == "One\ntwo"
    page.press(keys.ENTER)
    page.until(lambda: len(page.text(".assistant .body")) > 5)
    page.press(keys.ESCAPE)
    page.answer()
    assert "Stopped." in page.text(".assistant .stats")
    assert page.js("return document.activeElement.id") == "message"
    page.press(keys.ARROW_UP)
    assert page.js("return document.activeElement.className") == "edit"
    page.press(keys.ESCAPE)
    assert page.js("return document.activeElement.ariaLabel") == "Edit"

    seen = []
    for _ in range(40):
        page.press(keys.TAB)
        name, outline = page.js(
            """const e = document.activeElement;
            return [e.id || e.ariaLabel || e.tagName, getComputedStyle(e).outlineStyle]"""
        )
        seen.append(name)
        assert outline != "none" or name in ("message", "BODY"), f"{name} does not show its focus"
        if seen[-1] == "open-settings":
            break
    assert {"new-chat", "search", "export", "chat-tab", "notebook-tab", "toggle-theme"} <= set(seen)
    page.press(keys.ENTER)
    assert page.js("return document.querySelector('#settings').open")
    page.press(keys.ESCAPE)
    assert page.js("return document.activeElement.id") == "open-settings"
    assert not page.js("return document.querySelector('#settings').open")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_to_complain_of(page, server, tmp_path, theme):
    page.open(server.url, theme=theme)
    assert audit(page) == []
    chat = chat_of("Rich", RICH)
    chat["messages"][1] |= {
        "reasoning": "Thinking about it.",
        "error": "Something broke.",
        "stats": {"prompt": 10, "completion": 20, "seconds": 1, "first": 0.1},
        "tokens": [{"token": " a", "logprob": -i / 2, "top": [{"token": " b", "logprob": -0.1}]} for i in range(8)],
        "tool_calls": [{"id": "1", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}],
    }
    page.import_chats(tmp_path, chat)
    page.click("#chat-list a")
    page.until(lambda: page.shown(".hljs-comment"))
    page.click("[aria-label=Tokens]")
    page.click(".token")
    assert audit(page) == []
    page.click("#open-settings")
    assert audit(page) == []
    page.click("#settings .dialog-head button")
    page.click("#notebook-tab")
    page.until(lambda: page.shown("#text"))
    assert audit(page) == []


def test_on_a_phone_the_list_folds_away(page, server):
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 780, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        page.open(server.url)
        assert page.js("return document.querySelector('#sidebar').inert")
        assert page.js("return document.documentElement.scrollWidth <= innerWidth")
        page.click("#open-sidebar")
        page.until(lambda: page.js("return document.querySelector('#sidebar').getBoundingClientRect().left") == 0)
        assert page.js("return document.activeElement.id") == "close-sidebar"
        assert audit(page) == []
        page.press(page.keys.ESCAPE)
        assert page.js("return document.activeElement.id") == "open-sidebar"
        page.ask("Hello!")
        assert page.js("return document.documentElement.scrollWidth <= innerWidth")
        assert audit(page) == []
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
