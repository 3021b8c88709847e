import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ggserve.engines.threads import Computing, Pace, ThreadBudget, bound_spinning
from tests.processes import clean_environment


def test_spinning_is_bounded_unless_the_user_bounds_it():
    environment: dict[str, str] = {}
    bound_spinning(environment)
    assert 1000 < int(environment["GOMP_SPINCOUNT"]) < 300_000
    assert (environment["OMP_WAIT_POLICY"], environment["KMP_BLOCKTIME"]) == ("active", "1")
    for own in ({"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "passive"}, {"KMP_BLOCKTIME": "0"}):
        environment = dict(own)
        bound_spinning(environment)
        assert environment == own


def test_spinning_is_bounded_before_libgomp_is_loaded():
    code = """
import os
from pathlib import Path
import ggserve.app
from ggserve.engines.llama_cpp.in_process import import_xllamacpp
assert "libgomp" not in Path("/proc/self/maps").read_text()
import_xllamacpp()
assert "libgomp" in Path("/proc/self/maps").read_text()
assert os.environ["GOMP_SPINCOUNT"]
"""
    if Path("/proc/self/maps").exists():
        subprocess.run([sys.executable, "-c", code], check=True, env=clean_environment())


def test_a_lone_request_gets_all_threads_and_shares_when_others_come():
    budget = ThreadBudget(4)
    with budget.request():
        with budget.eval(64) as threads:
            assert threads == 4
        with budget.request(), budget.eval(64) as threads:
            assert threads == 2
        with budget.request(), budget.request(), budget.request(), budget.request(), budget.eval(64) as threads:
            assert threads == 1
        with budget.eval(64) as threads:
            assert threads == 4


@pytest.mark.parametrize(("requests", "limit"), [(1, 4), (2, 4), (3, 4), (8, 8)])
def test_threads_in_flight_and_everyone_gets_a_turn(requests, limit):
    """Of 4 threads at most 4 are in use, but one per request if there are more requests; models share them."""
    computing = Computing()
    budgets = [ThreadBudget(4, computing) for _ in range(2)]
    in_flight, most = 0, 0
    turns = [0] * requests
    lock = threading.Lock()

    def request(number: int) -> None:
        nonlocal in_flight, most
        budget = budgets[number % 2]
        with budget.request():
            while max(turns) < 100:
                with budget.eval(64) as threads:
                    with lock:
                        in_flight += threads
                        most = max(most, in_flight)
                    time.sleep(random.uniform(0.0005, 0.0015))
                    with lock:
                        in_flight -= threads
                turns[number] += 1

    workers = [threading.Thread(target=request, args=(number,)) for number in range(requests)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert min(requests, limit) <= most <= limit
    assert min(turns) * 2 > max(turns)


def record(pace: Pace, threads: int, seconds: float, times: int) -> None:
    for _ in range(times):
        pace.record(threads, seconds)


def test_the_first_tokens_teach_the_time_of_one_thread():
    pace = Pace()
    assert pace.wants_one(tokens=1)
    assert not pace.wants_one(tokens=64)
    record(pace, 1, 0.010, times=3)
    assert not pace.wants_one(tokens=1)


def test_threads_that_are_slower_than_one_get_a_rest_that_grows():
    pace = Pace()
    record(pace, 1, 0.010, times=3)
    rests = []
    for _ in range(7):
        record(pace, 2, 0.200, times=2)
        rest = 0
        while pace.wants_one(tokens=64):
            pace.record(1, 0.010)
            rest += 1
        rests.append(rest)
    assert rests == [8, 16, 32, 64, 128, 256, 256]
    record(pace, 2, 0.006, times=Pace.RECOVERY)
    record(pace, 2, 0.200, times=2)
    record(pace, 1, 0.010, times=8)
    assert not pace.wants_one(tokens=1)


def test_a_single_slow_token_changes_nothing():
    pace = Pace()
    record(pace, 1, 0.010, times=3)
    for _ in range(5):
        pace.record(2, 0.200)
        pace.record(2, 0.006)
        assert not pace.wants_one(tokens=1)
