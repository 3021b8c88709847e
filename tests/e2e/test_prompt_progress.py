"""How far a prompt is, what came from the cache, and why the rest did not, on both engines."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.conftest import Server, serve
from tests.shallow_model import write_shallow_model

SYSTEM = "You help with cooking. " + "Answer in one word, and be kind to cats. " * 12
LATER = "Some people like the sea in summer and the hills in autumn. " * 12
TOOL = {"type": "function", "function": {"name": "look", "description": "Look it up. " * 30}}
LONG = " ".join(f"{number} men went to mow a meadow." for number in range(60))  # some 560 tokens


@pytest.fixture(scope="module", params=["ctransformers", "llama.cpp"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, default_path: Path, original_path: Path
) -> Iterator[Server]:
    source = default_path if request.param == "ctransformers" else original_path
    path = write_shallow_model(source, tmp_path_factory.mktemp("model") / "model.gguf", layers=1)
    settings = {"ENGINE": request.param, "MODEL_PATH": str(path), "CONTEXT_LENGTH": "4096", "PARALLEL": "1"}
    with serve(tmp_path_factory.mktemp("logs"), **settings, PROMPT_CACHE="0") as server:
        yield server


def ask(server: Server, path: str = "/v1/chat/completions", **body: Any) -> dict[str, Any]:
    answer = httpx.post(server.url + path, json={"max_tokens": 1, **body}, timeout=400)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def chat(*texts: str, system: str = SYSTEM) -> list[dict[str, str]]:
    roles = ["user", "assistant"] * len(texts)
    return [
        {"role": "system", "content": system},
        *({"role": role, "content": text} for role, text in zip(roles, texts, strict=False)),
    ]


def details(answer: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = answer["usage"]["prompt_tokens_details"]
    return found


@pytest.mark.parametrize(
    ("reason", "message", "changes"),
    [
        ("tools", None, {"tools": [TOOL, {"type": "function", "function": {"name": "see"}}]}),
        ("system", 0, {"messages": chat("Hi.", "Hello.", LATER, system=f"It is 8 o'clock. {SYSTEM}")}),
        ("message", 1, {"messages": chat("Hi there, you.", "Hello.", LATER)}),
    ],
)
def test_what_parts_two_prompts_is_told(
    server: Server, reason: str, message: int | None, changes: dict[str, Any]
) -> None:
    body = {"messages": chat("Hi.", "Hello.", LATER), "tools": [TOOL]}
    ask(server, prompt="x" * 300, path="/v1/completions")
    ask(server, **body)
    found = details(ask(server, **{**body, **changes}))
    miss = found["cache_miss"]
    assert (miss["reason"], miss["slot"], miss["message"]) == (reason, 0, message)
    assert miss["tokens"] > 100
    assert abs(miss["token"] - found["cached_tokens"]) <= 1
    while f"{miss['tokens']} tokens evaluated again" not in (log := server.log()):  # written after the response
        time.sleep(0.01)
    assert "meow" not in log


def test_a_chat_that_goes_on_misses_nothing(server: Server) -> None:
    ask(server, messages=chat(f"Hi. {LATER}"))
    found = details(ask(server, messages=chat(f"Hi. {LATER}", "Yes.", "Go on.")))
    assert found["cached_tokens"] > 200
    assert "cache_miss" not in found


def test_a_new_chat_misses_nothing(server: Server) -> None:
    ask(server, messages=chat(LATER))
    assert "cache_miss" not in details(ask(server, messages=chat(LONG)))


def test_a_prompt_whose_slot_another_took_says_so(server: Server) -> None:
    ask(server, messages=chat(LATER, system="A"))
    ask(server, "/v1/completions", prompt=LONG)
    miss = details(ask(server, messages=chat(LATER, system="A")))["cache_miss"]
    assert miss["reason"] == "eviction"
    assert miss["tokens"] > 100


def test_texts_part_too_in_every_dialect(server: Server) -> None:
    ask(server, "/v1/completions", prompt=f"One. {LATER}")
    assert details(ask(server, "/v1/completions", prompt=f"Two. {LATER}"))["cache_miss"]["reason"] == "text"
    assert ask(server, "/completion", prompt=f"Three. {LATER}", n_predict=1)["cache_miss"]["reason"] == "text"
    ask(server, messages=chat(LATER, system="B"))
    answer = ask(server, "/v1/messages", system="C", messages=chat(LATER)[1:])
    assert answer["usage"]["cache_miss"]["reason"] == "system"
    answer = ask(server, "/v1/responses", instructions="D", input=LATER, max_output_tokens=16)
    assert answer["usage"]["input_tokens_details"]["cache_miss"]["reason"] == "system"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}]}),
        ("/v1/completions", {"prompt": f"1 {LONG}"}),
        ("/completion", {"prompt": f"2 {LONG}"}),
    ],
)
def test_a_stream_tells_the_progress_of_its_prompt(server: Server, path: str, body: dict[str, Any]) -> None:
    body |= {"max_tokens": 1, "stream": True, "return_progress": True}
    with httpx.stream("POST", server.url + path, json=body, timeout=400) as response:
        events = [orjson.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]
    told = [event["prompt_progress"] for event in events if "prompt_progress" in event]
    assert told, events
    assert events[: len(told)] == [event for event in events if "prompt_progress" in event]
    counts = [each["processed"] for each in told]
    assert counts == sorted(counts)
    assert counts[-1] == told[-1]["total"] > 400
    assert told[-1]["time_ms"] > 0


def test_slots_tell_it_and_an_aborted_prompt_keeps_what_was_evaluated(server: Server) -> None:
    prompt = {"prompt": f"3 {LONG * 4}", "max_tokens": 1}
    ask(server, "/v1/completions", prompt="y" * 300)
    body = orjson.dumps(prompt)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port)) as client:
        client.sendall(head.encode() + body)
        while not (slot := slots(server)[0]).get("n_prompt_tokens_processed"):
            time.sleep(0.01)
    assert slot["is_processing"]
    assert 0 < slot["n_prompt_tokens_processed"] < slot["n_prompt_tokens"]
    while slots(server)[0]["is_processing"]:
        time.sleep(0.01)
    found = ask(server, "/v1/completions", **prompt)
    assert details(found)["cached_tokens"] > 0
    assert any(" 499 " in line and "prompt tokens processed" in line for line in server.log().splitlines())


def slots(server: Server) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{server.url}/slots").json()
    return found
