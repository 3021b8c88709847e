"""Vision models and LoRA adapters on llama.cpp: the files that accompany a model change its answers."""

import asyncio
import base64
import io
import json
import math
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from ggserve.errors import EngineError, InvalidRequest, ModelFileError
from ggserve.generation import MediaPrompt, SamplingParams, ScoredToken
from ggserve.hub.companions import projector_beside
from ggserve.model.decisions import Option, Question
from ggserve.model.gguf_model import GGUFModel
from ggserve.modelfile.gguf import read_gguf
from tests.answers import answer
from tests.conftest import serve
from tests.engines.tiny_companions import write_adapter, write_projector
from tests.engines.tiny_models import write_tiny_model
from tests.hub.loopback_hub import Repo, running_hub
from tests.llama_server import launcher

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)


def data_url(colour: str, side: int = 28, form: str = "PNG") -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, form)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def asking(url: str) -> list[dict[str, Any]]:
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "user", "content": parts}]


def other_dialects(url: str) -> list[tuple[str, dict[str, Any]]]:
    """The same question in each dialect: path and body."""
    text, data = "What is it?", url.partition(",")[2]
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    parts = [{"type": "input_text", "text": text}, {"type": "input_image", "image_url": url}]
    cold = {"temperature": 0}
    ollama = {"stream": False, "options": {"num_predict": 3, **cold}}
    return [
        (
            "/v1/messages",
            {
                "max_tokens": 3,
                "messages": [{"role": "user", "content": [{"type": "text", "text": text}, image]}],
                **cold,
            },
        ),
        ("/v1/responses", {"max_output_tokens": 3, "input": [{"role": "user", "content": parts}], **cold}),
        ("/api/chat", {"messages": [{"role": "user", "content": text, "images": [data]}], **ollama}),
        ("/api/generate", {"prompt": text, "images": [data], **ollama}),
    ]


def prompt_tokens(answered: dict[str, Any]) -> int:
    usage = answered.get("usage", answered)
    cached = usage.get("cache_read_input_tokens", 0)
    return (usage["input_tokens"] + cached) if "input_tokens" in usage else usage["prompt_eval_count"]


def said(line: str) -> str:
    """Return the text in a line of a stream, in any dialect."""
    piece = json.loads(line.removeprefix("data: ")) if line.startswith(("data: {", "{")) else {}
    match piece:
        case {"choices": [{"delta": {"content": str(text)}}]} | {"message": {"content": str(text)}}:
            return text
        case {"delta": str(text)} | {"delta": {"text": str(text)}} | {"response": str(text)}:
            return text
    return ""


def together(url: str) -> list[tuple[dict[str, Any], str, str]]:
    """Options that exclude images: body, path, and the error."""
    *_, (_, prompt) = other_dialects(url)
    return [
        ({**prompt, "raw": True}, "/api/generate", "images are not supported with raw"),
        ({**prompt, "suffix": "x"}, "/api/generate", "images are not supported with raw or a suffix"),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sees")
    write_tiny_model(folder, "qwen2")
    write_projector(folder / "mmproj-tiny.gguf")
    return folder


def test_a_model_that_sees_comes_from_a_hub(folder: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in folder.glob("*.gguf")}
    with running_hub() as hub:
        hub.repos["org/sees"] = Repo(files)
        from_hub = {"MODEL_NAME": "org/sees", "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
        with serve(tmp_path, CONTEXT_LENGTH="128", PARALLEL="1", **from_hub) as server:
            body = {"messages": asking(data_url("red")), "max_tokens": 3, "temperature": 0}
            seen = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
            assert seen.status_code == 200, seen.text


def test_a_model_that_sees_is_asked_over_http(folder: Path, tmp_path: Path) -> None:
    path = next(folder.glob("tiny-*.gguf"))
    with serve(tmp_path, MODEL_PATH=str(path), CONTEXT_LENGTH="128", PARALLEL="1") as server:

        def ask(messages: list[dict[str, Any]]) -> httpx.Response:
            body = {"messages": messages, "max_tokens": 3, "temperature": 0}
            return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)

        seen = ask(asking(data_url("red")))
        assert seen.status_code == 200, seen.text
        without = ask([{"role": "user", "content": "What is it?"}])
        assert without.status_code == 200, without.text
        assert seen.json()["usage"]["prompt_tokens"] > without.json()["usage"]["prompt_tokens"]
        for url in ("http://localhost/x.png", "data:image/png;base64,AAAA", "data:text/plain;base64,AAAA"):
            refused = ask(asking(url))
            assert refused.status_code == 400
            assert "image" in refused.json()["error"]["message"]

        for path, body in other_dialects(data_url("red")):
            answered = httpx.post(f"{server.url}{path}", json=body, timeout=60)
            assert answered.status_code == 200, answered.text
            assert prompt_tokens(answered.json()) == seen.json()["usage"]["prompt_tokens"], path
        chat = {"messages": asking(data_url("red")), "max_tokens": 3, "temperature": 0, "stream": True}
        for path, body in [("/v1/chat/completions", chat), *other_dialects(data_url("red"))]:
            with httpx.stream("POST", f"{server.url}{path}", json={**body, "stream": True}, timeout=60) as pieces:
                streamed = "".join(map(said, pieces.iter_lines()))
            assert streamed == seen.json()["choices"][0]["message"]["content"], path
        for body, path, reason in together(data_url("red")):
            refused = httpx.post(f"{server.url}{path}", json=body, timeout=60)
            assert (refused.status_code, reason in refused.text) == (400, True), refused.text
        (_, message), *_ = other_dialects(data_url("red"))
        begun = [*message["messages"], {"role": "assistant", "content": "A"}]
        answered = httpx.post(f"{server.url}/v1/messages", json={**message, "messages": begun}, timeout=60)
        assert answered.status_code == 200, answered.text
        schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
        held = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        chat = {"messages": asking(data_url("red")), "max_tokens": 40, "response_format": held}
        answered = httpx.post(f"{server.url}/v1/chat/completions", json=chat, timeout=60)
        assert json.loads(answered.json()["choices"][0]["message"]["content"]) == {"a": 1}, answered.text
        for path, body in other_dialects("data:image/png;base64,AAAA"):
            refused = httpx.post(f"{server.url}{path}", json=body, timeout=60)
            assert refused.status_code == 400
            assert "the image cannot be read" in refused.text
        shown = httpx.post(f"{server.url}/api/show", json={}).json()
        assert "vision" in shown["capabilities"]
        assert httpx.get(f"{server.url}/props").json()["modalities"]["vision"] is True
        counted = httpx.post(f"{server.url}/v1/messages/count_tokens", json=other_dialects(data_url("red"))[0][1])
        assert counted.status_code == 400
        assert "cannot be counted" in counted.text


def test_a_model_that_does_not_see_says_what_it_lacks(tmp_path: Path) -> None:
    with serve(tmp_path, CONTEXT_LENGTH="128", PARALLEL="1") as server:
        answered = httpx.post(f"{server.url}/v1/chat/completions", json={"messages": asking(data_url("red"))})
        assert answered.status_code == 400
        assert "MMPROJ_PATH" in answered.json()["error"]["message"]
        for path_, body in other_dialects(data_url("red")):
            answered = httpx.post(f"{server.url}{path_}", json=body)
            assert answered.status_code == 400, path_
            assert "MMPROJ_PATH" in answered.text


def test_an_adapter_changes_the_answer_by_its_scale(tmp_path: Path) -> None:
    path, adapter = write_tiny_model(tmp_path, "qwen2"), write_adapter(tmp_path / "lora.gguf")

    def said(**options: Any) -> str:
        model = GGUFModel(path, threads=1, parallel=1, context_length=64, **options)
        try:
            return answer(model.complete([5, 6, 7, 8], GREEDY))[0]
        finally:
            model.close()

    plain = said()
    assert said(lora_path=adapter) != plain
    assert said(lora_path=adapter, lora_scale=0.0) == plain


@pytest.mark.parametrize("build", ["in process", "child"])
def test_a_request_scales_each_of_several_adapters(tmp_path: Path, build: str) -> None:
    path = write_tiny_model(tmp_path, "qwen2")
    adapters = tuple(write_adapter(tmp_path / f"{seed}.gguf", seed=seed) for seed in range(2))
    options: dict[str, Any] = {"threads": 1, "parallel": 1, "context_length": 64}
    if build == "child":
        options["llama_server"] = str(launcher(tmp_path))

    def said(model: GGUFModel, lora: dict[int, float] | None = None) -> tuple[tuple[int, float], ...]:
        """The likeliest first tokens and their log-probabilities."""
        params = replace(GREEDY, lora=lora, max_tokens=1, logprobs=5)

        async def tokens() -> list[ScoredToken]:
            return [token async for delta in model.complete([5, 6, 7, 8], params) for token in delta.tokens]

        return tuple((token.id, round(token.logprob or 0, 2)) for token in asyncio.run(tokens())[0].top)

    model = GGUFModel(path, lora_path=adapters, lora_scale=(1.0, 0.0), **options)
    try:
        found = [said(model, lora) for lora in ({}, {0: 1.0}, {1: 1.0}, {0: 1.0, 1: 1.0}, {0: 0.5})]
        assert len(set(found)) == 5
        assert said(model) == found[1]  # as loaded, and nothing is left of the request before
        assert said(model, {0: 0.0}) == found[0]
        with pytest.raises(InvalidRequest, match="no LoRA adapter 2"):
            said(model, {2: 1.0})
    finally:
        model.close()


def test_companions_of_other_models_are_refused_before_native_code_sees_them(
    tmp_path: Path, folder: Path, default_path: Path
) -> None:
    path = write_tiny_model(tmp_path, "qwen2")
    with pytest.raises(ModelFileError, match="made for 'llama'"):
        GGUFModel(path, lora_path=write_adapter(tmp_path / "a.gguf", "llama"))
    with pytest.raises(ModelFileError, match="a different shape"):
        GGUFModel(path, lora_path=write_adapter(tmp_path / "b.gguf", width=32))
    with pytest.raises(ModelFileError, match="not a LoRA adapter"):
        GGUFModel(path, lora_path=path)
    with pytest.raises(ModelFileError, match="a projector has 'clip'"):
        GGUFModel(path, mmproj_path=path)
    hears = write_projector(tmp_path / "mmproj-hears.gguf", sees=False)
    assert projector_beside(read_gguf(path)) is None
    with pytest.raises(ModelFileError, match="only image projectors are supported"):
        GGUFModel(path, mmproj_path=hears)
    with pytest.raises(ModelFileError, match="needs llama"):
        GGUFModel(default_path, mmproj_path=folder / "mmproj-tiny.gguf", engine="ctransformers")


def with_changed_epsilon(projector: Path, value: float) -> Path:
    data = bytearray(projector.read_bytes())
    key = b"clip.vision.attention.layer_norm_epsilon"
    struct.pack_into("<f", data, data.index(key) + len(key) + 4, value)
    projector.write_bytes(data)
    return projector


def test_a_projector_with_impossible_numbers_is_refused(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path, "qwen2")
    broken = with_changed_epsilon(write_projector(tmp_path / "mmproj-tiny.gguf"), -1.0)
    with pytest.raises(ModelFileError, match="layer_norm_epsilon"):
        GGUFModel(path, mmproj_path=broken, threads=1)


@pytest.mark.parametrize("kind", ["damaged", "lfs", "foreign", "epsilon", "native"])
def test_a_model_goes_without_a_projector_beside_it_that_cannot_be_used(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_tiny_model(tmp_path, "qwen2")
    beside = write_projector(tmp_path / "mmproj-tiny.gguf")
    match kind:
        case "damaged":
            beside.write_bytes(beside.read_bytes()[:1000])
        case "lfs":
            beside.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        case "foreign":
            beside.write_bytes(path.read_bytes())
        case "epsilon":
            with_changed_epsilon(beside, -1.0)
        case "native":
            beside.write_bytes(beside.read_bytes().replace(b"v.blk.1.attn_out.weight", b"v.blk.1.attn_out.weighs"))
    model = GGUFModel(path, threads=1, parallel=1, context_length=64)
    try:
        assert "images" not in model.features
        assert answer(model.complete("the", GREEDY))[1].completion_tokens == 6
    finally:
        model.close()
    assert "mmproj-tiny.gguf is not used" in caplog.text


def test_no_projector_is_used_where_none_is_wanted(folder: Path) -> None:
    model = GGUFModel(next(folder.glob("tiny-*.gguf")), mmproj_path=Path("none"), threads=1, parallel=1)
    try:
        assert "images" not in model.features
    finally:
        model.close()


def test_a_vision_model_scores_the_tokens_of_texts(folder: Path) -> None:
    model = GGUFModel(next(folder.glob("tiny-*.gguf")), threads=1, parallel=1, context_length=128)
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=1, prompt_logprobs=True)
    try:
        for prompt in ("the cat", "naïve 🚀 é"):
            _, last = answer(model.complete(prompt, params))
            assert last.completion_tokens == 12
    finally:
        model.close()


def test_an_image_is_the_state_of_a_decision(folder: Path) -> None:
    """The same image gives the same probabilities, another image others."""
    model = GGUFModel(next(folder.glob("tiny-*.gguf")), threads=1, parallel=1, context_length=256)
    question = Question("choice", "What is it?", (Option("a"), Option("n"), Option("er")), "questions")
    try:
        found = []
        for colour in ("red", "blue", "red"):
            (decision,) = asyncio.run(model.decide(asking(data_url(colour)), [question]))
            assert sum(decision.probabilities) == pytest.approx(1)
            assert 0 < decision.label_mass <= 1
            found.append(decision)
        red, blue, again = (math.log(decision.label_mass) for decision in found)
        assert red == pytest.approx(again, abs=0.01)
        assert red != pytest.approx(blue, abs=0.01)
    finally:
        model.close()


def test_no_program_is_run_on_what_a_client_sends(folder: Path, tmp_path: Path, monkeypatch) -> None:
    """llama.cpp takes a file that it cannot decode for a video, and gives it to ffprobe."""
    for name in ("ffprobe", "ffmpeg"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    model = GGUFModel(next(folder.glob("tiny-*.gguf")), threads=1, parallel=1)
    junk = f"data:image/png;base64,{base64.b64encode(b'RIFF....WEBPVP8 ').decode()}"
    try:
        with pytest.raises(InvalidRequest, match="cannot be read"):
            answer(model.chat(asking(junk), GREEDY))
        with pytest.raises(EngineError):  # past our own check
            prompt = MediaPrompt(f"{model.engine.media_marker} a", (junk.partition(",")[2],))
            answer(model.engine.generate(prompt, GREEDY))
        assert answer(model.chat(asking(data_url("red")), GREEDY))[1].completion_tokens == 6
    finally:
        model.close()
    assert not (tmp_path / "ran").exists()
