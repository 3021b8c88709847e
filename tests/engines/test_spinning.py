"""Threads of llama.cpp spin less at barriers while others use the cores."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.processes import clean_environment

pytestmark = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="Linux only")

_TEAMS = """
import os, time
from ggserve.engines.llama_cpp.in_process import import_xllamacpp
from ggserve.engines.llama_cpp.spinning import idle_team
try:
    with idle_team():
        pass
except OSError:
    print("no libgomp")
import_xllamacpp()
count = lambda: len(os.listdir("/proc/self/task"))
before = count()
for _ in range(3):
    with idle_team():
        while count() < before + len(os.sched_getaffinity(0)) + 1:
            time.sleep(0.01)
    while count() > before:
        time.sleep(0.01)
print("ended")
"""

_WATCH = """
import threading, time
from ggserve.engines.llama_cpp import spinning
from ggserve.engines.llama_cpp.in_process import import_xllamacpp
import_xllamacpp()
computed, waited = spinning.computed_and_waited()
assert computed > 0 <= waited
crowded = True
spinning.computed_and_waited = lambda: (0, time.monotonic_ns() if crowded else 0)
spinning._BOUNDED = 0.2
watch = spinning.Spinning()
def team():
    return any(thread.name == "idle team" for thread in threading.enumerate())
with watch.request():
    while not team():
        time.sleep(0.01)
    crowded = False
    while team():
        time.sleep(0.01)
print("ended")
"""


@pytest.mark.parametrize(("code", "lines"), [(_TEAMS, ["no libgomp", "ended"]), (_WATCH, ["ended"])])
def test_a_team_of_idle_threads_comes_and_goes(code: str, lines: list[str]):
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.stdout.split("\n") == [*lines, ""], ended.stderr
