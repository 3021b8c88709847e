"""Two apps in one process share no model, key, limit, response or metric."""

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_each_app_has_its_own_model_keys_limits_responses_and_metrics(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.e2e.two_apps", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    one, two = found["one"], found["two"]
    assert (one["model"], two["model"]) == ("llama.f16.v2", "mpt.f32")
    assert one["other_key"] == two["other_key"] == 401
    assert (one["large_body"], two["large_body"]) == (413, 400)
    assert (one["prompts"], two["prompts"]) == (400, 200)
    assert one["response"] == two["response"] == 200
    assert found["elsewhere"] == 404
    assert 'status="413"' in one["metrics"]
    assert 'status="413"' not in two["metrics"]
