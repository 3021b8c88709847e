"""The simulation loses no request, and routing by prompts finds more in the cache than routing at random."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.simulate import ROUTINGS, Load, Request, Service, figures, simulate

SERVICE = Service(prompt=0.01, cached=0.0001, output=0.02)
LOAD = Load(turns=3, first=100, question=20, answer=30, think=5)


def run(routing: str, replicas: int, slots: int, offered: float, chats: int, seed: int = 0) -> list[Request]:
    rate = offered * replicas / LOAD.seconds(SERVICE) / LOAD.turns
    return simulate(ROUTINGS[routing](slots), replicas, slots, rate, chats, SERVICE, LOAD, seed)


@pytest.mark.parametrize("routing", ROUTINGS)
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.floats(0.1, 2), st.integers(1, 30), st.integers(0, 99))
def test_every_turn_is_answered_after_the_work_that_it_takes(
    routing: str, replicas: int, slots: int, offered: float, chats: int, seed: int
) -> None:
    ended = run(routing, replicas, slots, offered, chats, seed)
    assert sorted((r.chat, r.turn) for r in ended) == [(c, t) for c in range(chats) for t in range(LOAD.turns)]
    assert all(r.first - r.arrived >= r.work[0] - 1e-6 and r.done - r.first >= r.work[1] - 1e-6 for r in ended)
    assert all(0 <= r.cached <= LOAD.prompt(r.turn)[1] for r in ended)
    busy = sum(sum(r.work) for r in ended)
    assert busy <= replicas * max(r.done for r in ended) + 1e-6


def test_one_alone_waits_for_nothing_and_finds_its_last_turn() -> None:
    ended = run("by prompts", 2, 2, 0.01, 1)
    for request in ended:
        assert request.cached == LOAD.prompt(request.turn)[1]
        assert request.done - request.arrived == pytest.approx(sum(request.work))


def test_with_one_replica_routing_does_not_matter() -> None:
    ends = [[(r.chat, r.turn, r.done, r.cached) for r in run(name, 1, 4, 0.9, 60)] for name in ROUTINGS]
    assert ends[0] == ends[1] == ends[2]


@pytest.mark.parametrize("offered", [0.3, 0.8, 1.1])
def test_routing_by_prompts_finds_more_in_the_cache_and_waits_less(offered: float) -> None:
    found = {name: figures(run(name, 8, 6, offered, 240), 240, LOAD) for name in ROUTINGS}
    assert found["by prompts"]["cached"] >= max(found["at random"]["cached"], found["less busy of two"]["cached"])
    assert found["by prompts"]["p95"] <= found["at random"]["p95"]
