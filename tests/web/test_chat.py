"""Chatting on the page: answers stream in, stop, and are made again; the real server answers."""

import json

import httpx

from tests.conftest import serve
from tests.web.browser import ENDLESS, SEA, chat_of


def idle(server) -> bool:
    health = httpx.get(f"{server.url}/health").json()
    return health["slots_idle"] == health["slots"]


def test_the_first_message_streams_in(page, whole_server):
    page.open(whole_server.url, max_tokens=60, more='{"ignore_eos": true}')
    assert page.text("#empty-title") == "Chat with SmolLM2-135M-Instruct.Q4_1"
    page.js(
        """window.lengths = new Set();
        const note = () => window.lengths.add(document.querySelector(".assistant .body")?.textContent.length);
        new MutationObserver(note).observe(document.body, {subtree: true, childList: true, characterData: true})"""
    )
    page.write(SEA)
    page.until(lambda: page.shown(".assistant:not(.running) .foot"))
    assert page.js("return window.lengths.size") > 5, "the text grew as it came"
    assert not page.shown("#empty")
    assert page.text(".user .body") == SEA
    assert "60 tokens · " in page.text(".stats:not(:empty)")
    assert "tokens/s · first after" in page.text(".assistant .stats")
    assert page.until(lambda: page.text("#use-text")) == "97 of 512 tokens of context"
    assert page.problems() == []


def test_stop_keeps_what_has_come_and_frees_the_server(page, whole_server):
    page.open(whole_server.url, **ENDLESS)
    page.write(SEA)
    page.until(lambda: len(page.text(".assistant .body")) > 20)
    page.click("#stop")
    answer = page.answer()
    assert len(answer) > 20
    assert "Stopped." in page.text(".assistant .stats")
    page.until(lambda: idle(whole_server))
    assert page.stored()[0]["messages"][1]["content"].startswith(answer[:20])


def test_regenerate_replaces_the_answer(page, server):
    page.open(server.url, temperature=1.5, seed=1)
    first = page.ask("Tell me something.")
    page.js("document.querySelector('#open-settings').click()")
    seed = page.one("[name=seed]")
    seed.clear()
    seed.send_keys("2")
    page.click("#settings .dialog-foot .button:last-child")
    page.click("[aria-label=Regenerate]")
    page.until(lambda: page.shown(".assistant.running"))
    assert page.answer() != first
    assert len(page.all(".message")) == 2
    assert [message["role"] for message in page.stored()[0]["messages"]] == ["user", "assistant"]


def test_an_edited_message_is_answered_anew(page, server):
    page.open(server.url)
    page.ask("Hello!")
    page.ask(SEA)
    assert len(page.all(".message")) == 4
    page.click(".user [aria-label=Edit]")
    page.press(page.keys.CONTROL, "a")
    page.press("Write one sentence about the moon.", page.keys.ENTER)
    page.until(lambda: len(page.all(".message")) == 2)
    answer = page.answer()
    assert page.text(".user .body") == "Write one sentence about the moon."
    sent = {
        "messages": [{"role": "user", "content": "Write one sentence about the moon."}],
        "temperature": 0,
        "max_tokens": 24,
    }
    same = httpx.post(f"{server.url}/v1/chat/completions", json=sent).json()
    assert answer.strip() == same["choices"][0]["message"]["content"].strip()


def test_the_system_prompt_and_the_sampling_reach_the_model(page, server):
    page.open(server.url, max_tokens=5)
    page.click("#open-settings")
    page.one("[name=system]").send_keys("You are a pirate.")
    page.one("[name=top_k]").send_keys("many")
    assert "whole number" in page.text("#problem-top_k")
    page.click("#settings .dialog-head button")
    page.ask("Hello!")
    page.until(lambda: page.text("#use-text"))
    messages = [{"role": "system", "content": "You are a pirate."}, {"role": "user", "content": "Hello!"}]
    sent = {"messages": messages, "temperature": 0, "max_tokens": 5}
    usage = httpx.post(f"{server.url}/v1/chat/completions", json=sent).json()["usage"]
    assert page.text("#use-text").startswith(f"{usage['total_tokens']} of 512")
    assert page.stored()[0]["system"] == "You are a pirate."


def test_code_has_colours_and_a_copy_button(page, server, tmp_path):
    page.open(server.url)
    page.requests()
    page.import_chats(tmp_path, chat_of("code", "```python\ndef f(x):\n    return 'a' if x else None\n```"))
    page.click("#chat-list a")
    page.until(lambda: "def" in page.texts(".code .hljs-keyword"))
    assert page.text(".code pre") == "def f(x):\n    return 'a' if x else None"
    assert {url.rsplit("/", 1)[1] for url in page.requests() if "/hljs/" in url} == {"core.js", "python.js"}
    page.one(".code button").click()
    page.until(lambda: page.text("#announcer") == "Copied")
    page.one("#message").send_keys(page.keys.CONTROL, "v")
    assert page.js("return document.querySelector('#message').value") == page.text(".code pre")


def test_the_notebook_continues_a_text(page, server):
    page.open(server.url, "#notebook", max_tokens=8)
    page.press("1, 2, 3, 4,", page.keys.CONTROL + page.keys.ENTER)
    page.until(lambda: page.text("#notebook-notes .stats"))
    sent = {"prompt": "1, 2, 3, 4,", "temperature": 0, "max_tokens": 8}
    same = httpx.post(f"{server.url}/v1/completions", json=sent).json()["choices"][0]["text"]
    assert page.js("return document.querySelector('#text').value") == "1, 2, 3, 4," + same
    page.driver.refresh()
    page.wait_ready()
    assert page.js("return document.querySelector('#text').value") == "1, 2, 3, 4," + same


def test_a_refusal_of_the_server_is_shown(page, server):
    page.open(server.url, more='{"stop": 5}')
    page.ask(SEA)
    assert "stop" in page.text(".assistant .error")
    page.click("#open-settings")
    more = page.one("[name=more]")
    more.clear()
    more.send_keys("[]")
    assert "must be an object" in page.text("#problem-more")
    more.clear()
    more.send_keys("{}")
    page.click("#settings .dialog-head button")
    page.click("[aria-label=Regenerate]")
    page.until(lambda: page.text(".assistant .body") and page.answer())
    assert not page.shown(".error")


WEATHER = {
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "The weather of a city.",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"enum": ["Oslo", "Rome"]}},
                    "required": ["city"],
                    "additionalProperties": False,
                },
            },
        }
    ],
    "tool_choice": "required",
    "parallel_tool_calls": False,
}


def test_a_model_that_calls_a_tool_gets_its_result(page, tmp_path, shallow_original_path):
    with serve(tmp_path, MODEL_PATH=str(shallow_original_path), CONTEXT_LENGTH="512") as server:
        call_a_tool(page, server)


def call_a_tool(page, server):
    page.open(server.url, max_tokens=60, more=json.dumps(WEATHER))
    page.ask("How is the weather in Oslo?")
    assert page.text(".call-name") == "weather"
    assert json.loads(page.text(".call pre"))["city"] in ("Oslo", "Rome")
    page.one(".call textarea").send_keys("Sunny.")
    page.click(".calls > .button")
    page.until(lambda: len(page.all(".message")) == 4)
    page.answer()
    roles = [message["role"] for message in page.stored()[0]["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant"]
