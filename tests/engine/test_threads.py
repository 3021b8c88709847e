import random
import threading
import time

from engine.threads import ThreadBudget


def test_a_lone_request_gets_all_threads_and_shares_when_others_come():
    budget = ThreadBudget(4)
    with budget.request():
        with budget.eval() as threads:
            assert threads == 4
        with budget.request(), budget.eval() as threads:
            assert threads == 2
        with budget.request(), budget.request(), budget.request(), budget.request(), budget.eval() as threads:
            assert threads == 1
        with budget.eval() as threads:
            assert threads == 4


def test_threads_in_flight_never_pass_the_total_and_everyone_gets_a_turn():
    budget = ThreadBudget(3)
    in_flight, most = 0, 0
    turns = [0] * 8
    lock = threading.Lock()
    end = time.monotonic() + 0.5

    def request(number: int) -> None:
        nonlocal in_flight, most
        with budget.request():
            while time.monotonic() < end:
                with budget.eval() as threads:
                    with lock:
                        in_flight += threads
                        most = max(most, in_flight)
                    time.sleep(random.uniform(0.0005, 0.0015))
                    with lock:
                        in_flight -= threads
                turns[number] += 1

    workers = [threading.Thread(target=request, args=(number,)) for number in range(len(turns))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert most == 3
    assert min(turns) * 2 > max(turns)
