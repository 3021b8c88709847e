"""Chats outlive a reload, a deletion, an export, and the server itself."""

import json

import psutil
import pytest

from tests.conftest import free_port, serve
from tests.web.browser import ENDLESS, SEA, chat_of


def test_the_history_outlives_a_reload_even_in_the_middle_of_an_answer(page, server):
    page.open(server.url, **ENDLESS)
    page.write(SEA)
    page.until(lambda: page.stored() and len(page.stored()[0]["messages"][1]["content"]) > 20)
    page.driver.refresh()
    page.wait_ready()
    page.until(lambda: len(page.all(".message")) == 2)
    assert len(page.answer()) > 20
    assert page.texts("#chat-list .title") == [SEA]
    page.click("#new-chat")
    page.until(lambda: page.shown("#empty"))
    page.click("#chat-list a")
    page.until(lambda: len(page.all(".message")) == 2)


def test_export_and_import_are_a_round_trip(page, server):
    page.open(server.url, max_tokens=8)
    page.ask("Hello!")
    page.click("#new-chat")
    page.ask("Привет 🙂")
    before = page.stored()
    page.click("#export")
    file = page.until(lambda: next(page.downloads.glob("*.json"), None))
    assert [chat["title"] for chat in json.loads(file.read_text())["chats"]] == ["Привет 🙂", "Hello!"]
    while page.all("#chat-list li"):
        page.click("#chat-list li button")
    page.until(lambda: page.stored() == [])
    page.one("#import-file").send_keys(str(file))
    page.until(lambda: page.text("#toast").startswith("2 chats imported."))
    key = lambda chat: chat["id"]  # noqa: E731
    assert sorted(page.stored(), key=key) == sorted(before, key=key)
    page.one("#import-file").send_keys(str(file))
    page.until(lambda: page.text("#toast").startswith("Nothing new"))
    file.unlink()


@pytest.mark.parametrize(
    "text", ["no JSON", '{"format": "other"}', '{"format": "ggserve-chats", "chats": [1, null, {"messages": 5}]}']
)
def test_files_that_hold_no_chats_do_no_harm(page, server, tmp_path, text):
    page.open(server.url)
    (tmp_path / "file.json").write_text(text)
    page.one("#import-file").send_keys(str(tmp_path / "file.json"))
    page.until(lambda: page.text("#toast"))
    assert page.stored() == []
    assert page.problems() == []


def test_search_delete_and_undo(page, server, tmp_path):
    page.open(server.url)
    one, other = chat_of("About cats", "Cats purr."), chat_of("About dogs", "Dogs bark at the postman.")
    page.import_chats(tmp_path, one, {**other, "id": "f" * 16})
    page.one("#search").send_keys("postman DOGS")
    assert page.texts("#chat-list .title") == ["About dogs"]
    assert "at the postman" in page.text("#chat-list .snippet")
    page.one("#search").clear()
    page.one("#search").send_keys(" ")
    page.click("#chat-list li button")
    page.until(lambda: len(page.stored()) == 1)
    page.click("#toast button")
    page.until(lambda: len(page.stored()) == 2)
    assert set(page.texts("#chat-list .title")) == {"About cats", "About dogs"}


def test_a_server_that_goes_away_and_comes_back(page, tmp_path, default_path):
    port = free_port()
    with serve(tmp_path / "first", port=port, CONTEXT_LENGTH="4096") as server:
        page.open(server.url, **{**ENDLESS, "max_tokens": 4000})
        page.write(SEA)
        page.until(lambda: len(page.text(".assistant .body")) > 20)
        for process in (*psutil.Process(server.process.pid).children(recursive=True), server.process):
            process.kill()
        answer = page.answer()
        assert "connection broke" in page.text(".assistant .error")
    page.until(lambda: "The server does not respond. Reconnecting" in page.text("#connection-text"))
    assert page.shown("#connection")
    page.one("#message").send_keys("Still here?", page.keys.ENTER)
    assert page.js("return document.querySelector('#message').value") == "Still here?", "what was written stays"
    assert len(page.all(".message")) == 2
    page.click("#new-chat")
    page.click("#chat-list a")
    page.until(lambda: page.text(".assistant .body").strip() == answer)
    with serve(tmp_path / "second", port=port, CONTEXT_LENGTH="4096"):
        page.until(lambda: not page.shown("#connection"))
        page.click("[aria-label=Regenerate]")
        page.until(lambda: len(page.text(".assistant .body")) > 20)
        page.click("#stop")
        page.answer()
        assert not page.shown(".error")
