"""The application on a real Ray: answers, limits, faults, updates. All tests use the same Ray, so their order
matters."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

pytest.importorskip("ray")

from ggserve.generation import SamplingParams
from ggserve.model.gguf_model import GGUFModel
from tests.answers import answer
from tests.cluster.conftest import QUEUE, ROOT, SLOTS, Cluster, chat
from tests.processes import PATIENCE

QUESTION = "Write one sentence about the sea."


def events(lines: list[str]) -> list[Any]:
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


class Stream:
    """A streamed answer that is read in a thread."""

    def __init__(self, cluster: Cluster, text: str, tokens: int) -> None:
        self.began = threading.Event()
        self.lines: list[str] = []
        self._body = chat(text, tokens, stream=True)
        self._cluster = cluster
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        url = f"{self._cluster.url}/v1/chat/completions"
        with self._cluster.client.stream("POST", url, json=self._body) as response:
            for line in response.iter_lines():
                self.lines.append(line)
                self.began.set()

    def read(self) -> list[Any]:
        """Return all its events."""
        self._thread.join()
        assert self.lines[-2] == "data: [DONE]"
        return events(self.lines)


def test_answers_as_a_single_server_does(cluster: Cluster, model: GGUFModel) -> None:
    text, _ = answer(model.chat([{"role": "user", "content": QUESTION}], SamplingParams(max_tokens=20, temperature=0)))
    fields = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 20, "temperature": 0}
    url = f"{cluster.url}/v1/chat/completions"
    whole = cluster.client.post(url, json=fields, headers={"x-request-id": "mine-1"})
    assert whole.json()["choices"][0]["message"]["content"] == text
    assert whole.headers.get_list("x-request-id") == ["mine-1"]
    assert "mine-1 POST /v1/chat/completions 200" in "".join(log.read_text() for log in cluster.logs.glob("*/main.log"))
    streamed = cluster.client.post(url, json={**fields, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    parts = [event["choices"][0]["delta"].get("content", "") for event in events(streamed.text.splitlines())]
    assert "".join(parts) == text


@pytest.mark.parametrize(
    "method, path, body, status, code",
    [
        ("POST", "/v1/chat/completions", b"{", 400, "invalid_json"),
        ("POST", "/v1/completions", b'{"prompt": "' + b"x" * (33 << 20) + b'"}', 413, "request_too_large"),
        ("GET", "/v1/nothing", None, 404, "unknown_url"),
        ("GET", "/v1/models/nothing", None, 404, "model_not_found"),
    ],
)
def test_errors_keep_their_shape(
    cluster: Cluster, method: str, path: str, body: bytes | None, status: int, code: str
) -> None:
    response = cluster.client.request(method, cluster.url + path, content=body)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code


def test_a_stream_is_not_held_back(cluster: Cluster) -> None:
    body = chat("Count.", 100, stream=True)
    with cluster.client.stream("POST", f"{cluster.url}/v1/chat/completions", json=body) as response:
        pieces = list(response.iter_raw())
    assert len(pieces) > 10
    assert max(map(len, pieces)) < sum(map(len, pieces)) / 2


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(cluster: Cluster, stream: bool) -> None:
    with pytest.raises(httpx.ReadTimeout):
        cluster.client.post(
            f"{cluster.url}/v1/chat/completions",
            json=chat("Count to a thousand.", 900, stream=stream),
            timeout=httpx.Timeout(60, read=0.5 if not stream else 0.001),
        )
    cluster.until(lambda state: state["slots_idle"] == 2 * SLOTS)


def test_all_replicas_are_told_of(cluster: Cluster) -> None:
    health = cluster.get("/health")
    assert health["status"] == "ok"
    assert [replica["replica"] for replica in health["replicas"]] == ["0", "1"]
    assert health["slots"] == 2 * SLOTS
    assert [model["id"] for model in cluster.get("/v1/models")["data"]] == [health["model"]]


def test_ray_s_own_metrics_and_dashboard_work(cluster: Cluster) -> None:
    nodes = httpx.get(f"{cluster.dashboard}/api/prometheus/sd").json()
    scraped = "".join(httpx.get(f"http://{target}/metrics").text for node in nodes for target in node["targets"])
    assert 'deployment="Replica"' in scraped
    applications = httpx.get(f"{cluster.dashboard}/api/serve/applications/").json()["applications"]
    assert applications["default"]["status"] == "RUNNING"


def test_more_than_the_queue_holds_gets_a_429(cluster: Cluster) -> None:
    cluster.all_idle()
    with ThreadPoolExecutor() as pool:
        with ExitStack() as streams:
            for _ in range(2 * SLOTS):
                body = chat("Count to a thousand.", 900, stream=True)
                streams.enter_context(cluster.client.stream("POST", f"{cluster.url}/v1/chat/completions", json=body))
            cluster.until(lambda state: state["slots_idle"] == 0)  # neither request waits for a slot
            assert cluster.client.post(f"{cluster.url}/tokenize", json={"content": "sea"}).status_code == 200
            waiting = [pool.submit(cluster.chat, "Count.", 2) for _ in range(3 * QUEUE + 2)]
            first = next(as_completed(waiting)).result()
        answers = [future.result() for future in waiting]
    assert first.status_code == 429
    assert first.json()["error"]["code"] == "queue_full"
    assert first.headers["retry-after"] == "1"
    assert [answer.status_code for answer in answers].count(200) >= QUEUE


def test_a_chat_returns_to_its_replica(cluster: Cluster) -> None:
    # Long, and different from the start: a replica gives chats with a common beginning the same slot.
    chats = [[{"role": "user", "content": f"{n} " * 60 + QUESTION}] for n in range(2 * SLOTS)]
    for turn in range(3):
        for messages in chats:
            body = {"messages": messages, "max_tokens": 8, "temperature": 0}
            response = cluster.client.post(f"{cluster.url}/v1/chat/completions", json=body).json()
            if turn:
                usage = response["usage"]
                assert usage["prompt_tokens_details"]["cached_tokens"] > usage["prompt_tokens"] / 2
            messages += [response["choices"][0]["message"], {"role": "user", "content": "And another one."}]


def test_a_killed_replica_costs_nobody_an_answer_that_had_not_begun(cluster: Cluster) -> None:
    cluster.all_idle()
    with ThreadPoolExecutor(4) as pool:
        streams = [Stream(cluster, f"Count to {n} thousand.", 700) for n in range(2)]
        assert all(stream.began.wait(PATIENCE) for stream in streams)
        whole = [pool.submit(cluster.chat, f"Say hello {n} times.", 200) for n in range(2)]
        cluster.until(lambda state: state["slots_idle"] == 0)
        os.kill(cluster.replicas()[0], signal.SIGKILL)
        assert [future.result().status_code for future in whole] == [200, 200]
        ends = [stream.read()[-1] for stream in streams]
    assert sorted("error" in end for end in ends) == [False, True]
    assert [end["error"]["code"] for end in ends if "error" in end] == ["replica_lost"]
    cluster.all_idle()  # it is back


def test_a_replica_that_hangs_is_replaced(cluster: Cluster) -> None:
    stopped = cluster.replicas()[0]
    os.kill(stopped, signal.SIGSTOP)
    cluster.until(lambda state: len(state["replicas"]) == 1)
    cluster.all_idle()
    assert stopped not in cluster.replicas()


def test_an_update_of_the_model_drops_nothing(cluster: Cluster, default_path: Path) -> None:
    other = cluster.logs / "other.gguf"
    other.symlink_to(default_path.resolve())
    config = yaml.safe_load((ROOT / "deploy/cluster.yaml").read_text())
    config["http_options"] = {"host": "127.0.0.1", "port": int(cluster.environment["PORT"])}
    config["applications"][0]["args"] = {"MODEL_PATH": str(other), "REPLICAS": 2}
    config["applications"][0]["deployments"] = [{"name": "Gateway", "num_replicas": 2}]
    file = cluster.logs / "cluster.yaml"
    file.write_text(yaml.safe_dump(config))
    deploy = [str(Path(sys.executable).parent / "serve"), "deploy", str(file), "-a", cluster.dashboard]
    subprocess.run(deploy, env=cluster.environment, check=True, capture_output=True)
    answers: list[httpx.Response] = []
    deadline = time.monotonic() + 240
    with ThreadPoolExecutor(2) as pool:

        def ask() -> None:
            while not updated.is_set():
                answers.append(cluster.chat(QUESTION, 30))

        updated = threading.Event()
        asking = [pool.submit(ask) for _ in range(2)]
        try:
            while [r["model"] for r in cluster.get("/health")["replicas"]] != ["other", "other"]:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        finally:
            updated.set()
        for future in asking:
            future.result()
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["choices"][0]["message"]["content"] for answer in answers}) == 1
    assert {answer.json()["model"] for answer in answers} >= {"other"}


def test_an_answer_that_runs_ends_before_the_cluster_stops(cluster: Cluster) -> None:
    stream = Stream(cluster, "Count to a thousand.", 300)
    assert stream.began.wait(PATIENCE)
    cluster.process.send_signal(signal.SIGTERM)
    assert stream.read()[-1]["choices"][0]["finish_reason"] == "length"
    assert cluster.process.wait(timeout=PATIENCE) == 0
