import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ggserve.engines import threads
from ggserve.engines.threads import Computing, Pace, ThreadBudget, bound_spinning
from tests.processes import clean_environment


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Ignore what other programs do."""
    monkeypatch.setattr(threads, "free_cores", lambda: None)


class Clock:
    """The time, and the CPU time of this process, in seconds."""

    def __init__(self) -> None:
        self._now = self._cpu = 0.0

    def perf_counter(self) -> float:
        return self._now

    def process_time(self) -> float:
        return self._cpu

    def sleep(self, seconds: float) -> None:
        self._now += seconds

    def advance(self, seconds: float, cpu: int) -> None:
        """Let time pass in which this process has so many cores."""
        self._now += seconds
        self._cpu += cpu * seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(threads, "time", clock)
    return clock


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
        with budget.eval() as count:
            assert count == 4
        with budget.request(), budget.eval() as count:
            assert count == 2
        with budget.request(), budget.request(), budget.request(), budget.request(), budget.eval() as count:
            assert count == 1
        with budget.eval() as count:
            assert count == 4


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
                with budget.eval() as count:
                    with lock:
                        in_flight += count
                        most = max(most, in_flight)
                    time.sleep(random.uniform(0.0005, 0.0015))
                    with lock:
                        in_flight -= count
                turns[number] += 1

    workers = [threading.Thread(target=request, args=(number,)) for number in range(requests)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert min(requests, limit) <= most <= limit
    assert min(turns) * 2 > max(turns)


def unknown() -> None:
    """Return what is known of other programs."""


def record(pace: Pace, threads: int, share: float, seconds: float) -> None:
    """Record evals of 10 ms whose threads got this share of the CPU time."""
    for _ in range(round(seconds / 0.010)):
        pace.record(threads, threads * 0.010, share * threads * 0.010)


def rest(pace: Pace, share: float = 1.0, most: float = 10.0) -> float:
    """Record evals with one thread until several are to be used, and return their seconds, at most `most`."""
    seconds = 0.0
    while pace.single and seconds < most:
        record(pace, 1, share, 0.010)
        seconds += 0.010
    return seconds


def resting() -> Pace:
    """Return the pace after threads that waited for cores."""
    pace = Pace(unknown)
    record(pace, 2, 0.5, seconds=0.2)
    assert pace.single
    return pace


@pytest.mark.parametrize("threads", [2, 8])
def test_threads_that_wait_for_cores_are_replaced_by_one(threads):
    pace = Pace(unknown)
    record(pace, threads, 0.97, seconds=5)
    assert not pace.single
    record(pace, threads, 0.5, seconds=0.2)
    assert pace.single


def test_a_single_slow_eval_changes_nothing():
    pace = Pace(unknown)
    for _ in range(5):
        record(pace, 2, 0.5, seconds=0.010)
        record(pace, 2, 0.97, seconds=0.040)
        assert not pace.single


def test_one_thread_continues_while_it_waits_for_a_core_and_ends_within_a_second_after():
    pace = resting()
    assert rest(pace, share=0.67) >= 10
    assert rest(pace) < 1


def test_threads_that_are_slow_again_rest_longer_up_to_a_limit():
    """A program that uses one of two cores leaves a single thread the other."""
    pace = Pace(unknown)
    rests = []
    for _ in range(6):
        record(pace, 2, 0.75, seconds=0.2)
        rests.append(rest(pace))
    assert rests == sorted(rests)
    assert rests[0] < 0.5 < 1.5 < rests[-2] == rests[-1] <= 2.1
    record(pace, 2, 0.97, seconds=1)
    record(pace, 2, 0.75, seconds=0.2)
    assert rest(pace) < 0.5


def test_an_eval_whose_threads_others_decided_changes_nothing():
    pace = Pace(unknown)
    record(pace, 1, 0.3, seconds=5)  # many requests
    assert not pace.single
    pace = resting()
    record(pace, 2, 1.0, seconds=5)  # began before
    assert pace.single


def test_one_thread_continues_while_another_program_needs_the_other_core():
    crowded = True
    pace = Pace(lambda: crowded)
    pace.begin()
    assert rest(pace) >= 10
    crowded = False
    assert rest(pace) < 1


def test_a_request_begins_with_one_thread_if_other_programs_need_the_cores(monkeypatch):
    budget = ThreadBudget(4)
    for free, expected in [(4, 4), (3, 1), (8, 4), (3, 1), (None, 1)]:
        monkeypatch.setattr(threads, "free_cores", lambda free=free: free)
        with budget.request(), budget.eval() as count:
            assert count == expected


@pytest.mark.parametrize(("cpu", "expected"), [(4, 2), (2, 1)])
def test_concurrent_evals_are_judged_by_the_time_of_all_their_threads(clock, cpu, expected):
    budget = ThreadBudget(4)
    with budget.request(), budget.request():
        with budget.eval() as first, budget.eval() as second:
            assert first == second == 2
            clock.advance(Pace.WINDOW, cpu)
        with budget.eval() as count:
            assert count == expected


def test_a_thread_that_runs_for_a_moment_changes_nothing(monkeypatch):
    free = iter([1, 4])
    monkeypatch.setattr(threads, "free_cores", lambda: next(free))
    budget = ThreadBudget(4)
    with budget.request(), budget.eval() as count:
        assert count == 4


def test_evals_of_other_requests_are_no_other_programs(clock, monkeypatch):
    budget = ThreadBudget(4)
    with budget.request(), budget.request():
        with budget.eval():
            clock.advance(Pace.WINDOW, cpu=0)
        monkeypatch.setattr(threads, "free_cores", lambda: 3)  # of 4
        with budget.eval() as first, budget.eval() as second:
            assert first == second == 1
            clock.advance(Pace.MIN_REST, cpu=2)
        with budget.eval() as count:
            assert count == 2
