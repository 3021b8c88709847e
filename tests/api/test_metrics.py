"""/metrics counts events, in a format that Prometheus reads."""

import time

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Server


def scrape(server: Server) -> dict[tuple[str, str], float]:
    """Return each sample's value, by its name and its relevant labels."""
    answer = httpx.get(f"{server.url}/metrics", timeout=60)
    assert answer.headers["content-type"].startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = {name: text for name, text in sample.labels.items() if name in ("path", "status", "le")}
            key = sample.name, ",".join(labels.values())
            found[key] = found.get(key, 0) + sample.value  # of all methods
    return found


def test_requests_and_tokens_are_counted(server: Server) -> None:
    body = {"messages": [{"role": "user", "content": "Count."}], "max_tokens": 5, "temperature": 0, "ignore_eos": True}
    before = scrape(server)
    usage = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()["usage"]
    httpx.post(f"{server.url}/v1/chat/completions", json={}, timeout=60)
    httpx.get(f"{server.url}/nowhere/{'x' * 50}", timeout=60)
    deadline = time.monotonic() + 60
    lost = "ggserve:http_requests_total", ",404"
    while (after := scrape(server)).get(lost, 0) == before.get(lost, 0):  # counted after the answer is sent
        assert time.monotonic() < deadline

    def grown(name: str, labels: str = "") -> float:
        return after[name, labels] - before.get((name, labels), 0)

    assert grown("ggserve:http_requests_total", "/v1/chat/completions,200") == 1
    assert grown("ggserve:http_requests_total", "/v1/chat/completions,400") == 1
    assert grown("ggserve:http_requests_total", ",404") == 1
    assert grown("ggserve:prompt_tokens_total") == usage["prompt_tokens"]
    assert grown("ggserve:generation_tokens_total") == usage["completion_tokens"] == 5
    assert grown("ggserve:prefix_cache_hits_total") == usage["prompt_tokens_details"]["cached_tokens"]
    assert grown("ggserve:time_to_first_token_seconds_count") == 1
    assert grown("ggserve:e2e_request_latency_seconds_count") == 1
    assert 3 <= grown("ggserve:inter_token_latency_seconds_count") <= 4
    assert after["ggserve:num_requests_running", ""] == after["ggserve:num_requests_waiting", ""] == 0
    assert after["ggserve:kv_cache_usage_perc", ""] == 0
    assert after["ggserve:model_load_seconds", ""] > 0
