"""The parts of an answer beside text, in the OpenAI API's form; the stream is the test's, cut at odd places."""

import base64
import io
import json

from PIL import Image

from tests.web.browser import SEA


def answer_with(page, path: str, *choices: dict, end: str = "data: [DONE]\r\n\r\n") -> None:
    """Answer requests to `path` with these chunks, seven bytes at a time, with the standard's line ends."""
    chunks = [{"choices": [choice]} for choice in choices]
    events = "".join(f": a comment\r\nevent: x\r\ndata: {json.dumps(c, ensure_ascii=False)}\r\n\r\n" for c in chunks)
    page.js(
        """const [path, text] = arguments, real = window.fetch, bytes = new TextEncoder().encode(text);
        window.fetch = (url, options) => {
          if (url !== path) return real(url, options);
          window.asked = JSON.parse(options.body);
          return Promise.resolve(new Response(new ReadableStream({
            start(out) {
              for (let at = 0; at < bytes.length; at += 7) out.enqueue(bytes.slice(at, at + 7));
              out.close();
            },
          })));
        }""",
        path,
        events + end,
    )


def test_the_progress_of_the_prompt_is_shown_until_the_answer_begins(page, server):
    page.open(server.url)
    page.js(
        """const real = window.fetch;
        window.fetch = (url, options) => {
          if (url !== "v1/chat/completions") return real(url, options);
          window.asked = JSON.parse(options.body);
          return Promise.resolve(new Response(new ReadableStream({ start: (out) => { window.out = out; } })));
        }""",
    )
    send = "window.out.enqueue(new TextEncoder().encode(`data: ${JSON.stringify(arguments[0])}\\n\\n`))"
    page.write("Read this.")
    page.until(lambda: page.js("return Boolean(window.out)"))
    assert page.js("return window.asked.return_progress")
    page.js(send, {"choices": [{"delta": {}}], "prompt_progress": {"total": 7000, "processed": 1200}})
    page.until(lambda: page.texts(".reading") == ["Reading the prompt: 1,200 of 7,000 tokens"])
    page.js(send, {"choices": [{"delta": {"content": "Yes."}}]})
    page.until(lambda: not page.texts(".reading"))
    page.js("window.out.close()")


def test_thoughts_are_folded_away(page, server):
    page.open(server.url)
    answer_with(
        page,
        "v1/chat/completions",
        {"delta": {"reasoning_content": "Let me *think* "}},
        {"delta": {"reasoning_content": "— ёлка 🎄."}},
        {"delta": {"content": "Done."}},
        {"delta": {}, "finish_reason": "stop"},
    )
    assert page.ask(SEA) == "Done."
    assert page.text(".thoughts > div") == "Let me *think* — ёлка 🎄."
    assert not page.js("return document.querySelector('.thoughts').open")
    assert page.js("return document.querySelector('.thoughts summary').textContent") == "Thoughts"


def test_thoughts_inside_of_the_text_are_folded_away_too_and_not_sent_back(page, server):
    page.open(server.url)
    answer_with(page, "v1/chat/completions", {"delta": {"content": "<think>Hm.</think>\n\nYes."}})
    assert page.ask("Really?") == "Yes."
    assert page.text(".thoughts > div") == "Hm."
    page.ask("Sure?")
    assert page.js("return window.asked.messages[1].content") == "Yes."


def test_a_tool_call_is_shown_and_its_result_sent(page, server):
    page.open(server.url)
    call = {"index": 0, "id": "call_1", "function": {"name": "weather", "arguments": '{"ci'}}
    answer_with(
        page,
        "v1/chat/completions",
        {"delta": {"tool_calls": [call]}},
        {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": 'ty": "Oslo"}'}}]}},
        {"delta": {}, "finish_reason": "tool_calls"},
    )
    page.ask("How is the weather in Oslo?")
    assert page.text(".call-name") == "weather"
    assert json.loads(page.text(".call pre")) == {"city": "Oslo"}
    page.one(".call textarea").send_keys("Sunny.")
    answer_with(page, "v1/chat/completions", {"delta": {"content": "It is sunny."}})
    page.click(".calls > .button")
    page.until(lambda: len(page.all(".message")) == 4)
    assert page.answer() == "It is sunny."
    sent = page.js("return window.asked.messages")
    assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
    assert sent[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Oslo"}'}
    assert sent[2] == {"role": "tool", "content": "Sunny.", "tool_call_id": "call_1"}


def test_each_token_of_a_chat_shows_how_likely_it_was(page, server):
    page.open(server.url, tokens=True)
    top = [{"token": "Hi", "logprob": -0.1}, {"token": "Oh", "logprob": -2.5}]
    one = {"delta": {"content": "Hi"}, "logprobs": {"content": [{**top[0], "top_logprobs": top}]}}
    other = {
        "delta": {"content": " you"},
        "logprobs": {"content": [{"token": " you", "logprob": -3, "top_logprobs": []}]},
    }
    answer_with(page, "v1/chat/completions", one, other)
    assert page.ask(SEA) == "Hi you"
    assert page.js("return [window.asked.logprobs, window.asked.top_logprobs]") == [True, 5]
    page.click("[aria-label=Tokens]")
    assert page.texts(".token") == ["Hi", "·you"]
    page.click(".token")
    assert page.texts(".token-details tr") == ["Hi90 %", "Oh8.2 %"]
    page.click(".token:last-of-type")
    assert page.texts(".token-details tr") == ["·you5.0 %"]


def test_each_token_of_a_completion_too(page, server):
    page.open(server.url, "#notebook", tokens=True)
    logprobs = {"tokens": [" b"], "token_logprobs": [-0.1], "top_logprobs": [{" b": -0.1, " c": -2.5}]}
    answer_with(page, "v1/completions", {"text": " b", "logprobs": logprobs})
    page.press("a", page.keys.CONTROL + page.keys.ENTER)
    page.until(lambda: page.texts(".token") == ["·b"])
    assert page.js("return window.asked.logprobs") == 5
    page.click(".token")
    assert page.texts(".token-details tr") == ["·b90 %", "·c8.2 %"]


def test_a_stream_that_ends_early_is_an_error(page, server):
    page.open(server.url)
    answer_with(page, "v1/chat/completions", {"delta": {"content": "Half"}}, end="")
    assert page.ask(SEA) == "Half"
    assert "connection broke" in page.text(".error")


def test_images_go_to_a_model_that_sees_and_models_can_be_chosen(page, server, tmp_path):
    models = [{"id": "blind"}, {"id": "seeing", "modalities": ["text", "image"], "context_length": 100}]
    source = f"""const real = window.fetch, models = {json.dumps({"data": models})};
    window.fetch = async (url, options) => url === "v1/models" ? Response.json(models) : real(url, options)"""
    script = page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    try:
        page.open(server.url)
    finally:
        page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
    assert not page.shown("#attach")
    page.js("const m = document.querySelector('#models'); m.value = 'seeing'; m.dispatchEvent(new Event('change'))")
    page.until(lambda: page.shown("#attach"))
    Image.new("RGB", (3000, 10), "red").save(tmp_path / "line.png")
    page.one("#files").send_keys(str(tmp_path / "line.png"))
    page.until(lambda: page.shown("#attached img"))
    answer_with(page, "v1/chat/completions", {"delta": {"content": "A line."}})
    assert page.ask("What is this?") == "A line."
    asked = page.js("return window.asked")
    assert asked["model"] == "seeing"
    picture, text = asked["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is this?"}
    data = base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(data)).size == (1536, 5)
    assert page.js("return document.querySelector('.user img').naturalWidth") == 1536
