"""Whatever a model or a file contains, the page runs none of it and contacts no other host."""

import time

from tests.web.browser import chat_of

HOSTILE = """<script>window.bad = 1</script><img src="https://evil.example/1.png" onerror="window.bad = 2">
<svg onload="window.bad = 3"><style>body { background: url(https://evil.example/2) }</style></svg>
<iframe src="https://evil.example/3"></iframe><form action="https://evil.example/4"><input name=key></form>

![secret](https://evil.example/5.png) ![x](javascript:window.bad=4) <b onclick="window.bad = 5" style="x:fixed">b</b>
[click](javascript:window.bad=6) [data](data:text/html,<script>window.bad=7</script>) <a href=" javascript:bad=8">a</a>
[fine](https://example.org/page) <https://example.org/auto> ![own](/v1/models)

[ref]: javascript:window.bad=9

[ref] <base href="https://evil.example/"> <math><mtext><table><mglyph><style><img src=x onerror=window.bad=10>

```html"><img src=x onerror=window.bad=11>
<img src=x onerror="window.bad = 12">
```

<div id="composer" class="box"><p>a spoofed
field</p></div>

| a | b |
| --- | --- |
| <img src=x onerror=window.bad=13> | `<script>window.bad = 14</script>` |
"""


def test_hostile_markdown_runs_nothing_and_asks_for_nothing(page, server, tmp_path):
    page.open(server.url)
    page.requests()
    hostile = chat_of("<img src=x onerror=window.bad=15>", HOSTILE, HOSTILE, f"<think>{HOSTILE}</think>{HOSTILE}")
    hostile["messages"][1] |= {
        "reasoning": HOSTILE,
        "error": HOSTILE,
        "tool_calls": [{"id": HOSTILE, "function": {"name": HOSTILE, "arguments": HOSTILE}}],
        "tokens": [{"token": HOSTILE, "logprob": "<b>", "top": [{"token": HOSTILE, "logprob": 1e9}]}],
        "images": ["https://evil.example/6.png", "data:text/html,<script>window.bad = 16</script>"],
    }
    page.import_chats(tmp_path, hostile)
    page.click("#chat-list a")
    page.until(lambda: len(page.all(".message")) == 4)
    for button in page.all(".message button"):
        if button.get_attribute("aria-label") not in ("Edit", "Regenerate"):
            page.js("arguments[0].click()", button)
    page.js(
        """for (const link of document.querySelectorAll(".message a")) {
          link.removeAttribute("target");
          if (link.href) link.addEventListener("click", (event) => event.preventDefault());
          link.click();
        }"""
    )
    time.sleep(0.3)
    assert page.js("return window.bad") is None
    assert [url for url in page.requests() if not url.startswith(server.url)] == []
    assert page.all(".message :is(img, script, style, iframe, form, base, [onclick], [style])") == []
    assert page.all(".message :is([id], .box)") == []
    links = page.js("return [...document.querySelectorAll('.message a')].map((a) => [a.getAttribute('href'), a.rel])")
    hrefs = {href for href, rel in links if href and rel == "noopener noreferrer"}
    assert hrefs == {
        "https://evil.example/2",
        "https://evil.example/5.png",
        "https://example.org/page",
        "https://example.org/auto",
    }
    assert "<script>window.bad = 1</script>" in page.text(".assistant .body"), "raw HTML is shown as it was written"


def test_the_policy_blocks_what_the_sanitizer_might_miss(page, server):
    page.open(server.url)
    blocked = page.driver.execute_async_script(
        """const done = arguments[0], blocked = new Set();
        document.addEventListener("securitypolicyviolation", (event) => blocked.add(event.effectiveDirective));
        const attempt = (action) => { try { action() } catch (error) { blocked.add(error.name) } };
        const script = document.createElement("script");
        attempt(() => { script.append("window.bad = 1"); document.body.append(script) });
        attempt(() => { document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.bad = 2'>") });
        attempt(() => { const i = new Image(); i.src = "https://evil.example/pixel.png" });
        attempt(() => { document.body.setAttribute("onclick", "window.bad = 3"); document.body.click() });
        fetch("https://evil.example/").catch(() => {});
        setTimeout(() => done([...blocked]), 300)"""
    )
    assert {"require-trusted-types-for", "TypeError", "img-src", "connect-src"} <= set(blocked)
    assert page.js("return window.bad") is None
