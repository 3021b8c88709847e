"""The answers of many replicas as one."""

import json

from prometheus_client.parser import text_string_to_metric_families

from ggserve.cluster.gathered import health, metrics, models


def test_health_adds_up() -> None:
    told = {"1": b'{"status":"ok","slots":4,"slots_idle":1}', "0": b'{"status":"ok","slots":4,"slots_idle":4}'}
    whole = json.loads(health(told))
    assert (whole["status"], whole["slots"], whole["slots_idle"]) == ("ok", 8, 5)
    assert [(replica["replica"], replica["slots_idle"]) for replica in whole["replicas"]] == [("0", 4), ("1", 1)]


def test_a_replica_without_a_model_does_not_hide_the_others() -> None:
    told = {"0": b'{"status":"ok","model":null,"waiting":0}', "1": b'{"status":"ok","model":"a","slots":2,"waiting":1}'}
    whole = json.loads(health(told))
    assert (whole["model"], whole["slots"], whole["waiting"]) == ("a", 2, 1)


def test_each_model_is_listed_once() -> None:
    told = {"0": b'{"data":[{"id":"a"}]}', "1": b'{"data":[{"id":"a"},{"id":"b"}]}'}
    assert [model["id"] for model in json.loads(models(told))["data"]] == ["a", "b"]


def test_metrics_say_whose_they_are() -> None:
    text = b"# HELP ggserve:tokens_total Tokens.\n# TYPE ggserve:tokens_total counter\nggserve:tokens_total %d.0\n"
    families = list(text_string_to_metric_families(metrics({"0": text % 3, "1": text % 4}).decode()))
    assert len(families) == 1
    assert [(s.name, s.labels, s.value) for s in families[0].samples] == [
        ("ggserve:tokens_total", {"replica": "0"}, 3.0),
        ("ggserve:tokens_total", {"replica": "1"}, 4.0),
    ]
