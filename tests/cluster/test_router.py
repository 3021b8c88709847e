"""Concurrent requests spread out, even before replicas report them."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata
from ray.serve.request_router import PendingRequest

from ggserve.cluster.router import PromptRouter

DEPLOYMENT = DeploymentID(name="Replica", app_name="default")


class Idle(SimpleNamespace):
    """A replica that always reports that nothing runs on it."""

    def __init__(self, name: str) -> None:
        super().__init__(
            replica_id=ReplicaID(name, DEPLOYMENT),
            max_ongoing_requests=20,
            routing_stats={},
            multiplexed_model_ids=set(),
        )

    async def get_queue_len(self, *, deadline_s: float) -> int:
        await asyncio.sleep(0)
        return 0


def request(number: int, marks: list[int] | None = None) -> PendingRequest:
    metadata = RequestMetadata(request_id=str(number), internal_request_id=str(number))
    return PendingRequest(args=[{}, b"", marks or []], kwargs={}, metadata=metadata)


def make_router(replicas: int, slots: int) -> tuple[Any, list[Any]]:
    router: Any = PromptRouter(DEPLOYMENT, DeploymentHandleSource.REPLICA, use_replica_queue_len_cache=True)
    router.initialize_state(slots)
    idle = [Idle(str(n)) for n in range(replicas)]
    router.update_replicas(idle)
    return router, idle


@pytest.mark.parametrize("replicas", [2, 5])
def test_as_many_short_prompts_as_replicas_go_to_different_ones(replicas: int) -> None:
    async def route() -> set[str]:
        router, idle = make_router(replicas, slots=4)
        choices = await asyncio.gather(*(router.choose_replicas(idle, request(n)) for n in range(replicas)))
        return {replica.replica_id.unique_id for [[replica]] in choices}

    for _ in range(10):
        assert len(asyncio.run(route())) == replicas


def test_the_slots_of_one_replica_are_not_given_twice_until_an_answer_ends() -> None:
    async def route() -> None:
        router, idle = make_router(1, slots=2)
        choices = await asyncio.gather(*(router.choose_replicas(idle, request(n)) for n in range(3)))
        assert [bool(choice) for choice in choices] == [True, True, False]
        router.on_request_completed(idle[0].replica_id, "0")
        assert await router.choose_replicas(idle, request(2)) == [[idle[0]]]

    asyncio.run(route())


def test_what_was_sent_long_ago_counts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def route() -> None:
        router, idle = make_router(1, slots=1)
        assert await router.choose_replicas(idle, request(0))
        assert not await router.choose_replicas(idle, request(1))
        monkeypatch.setattr("ggserve.cluster.router._SENT_SECONDS", 0.0)
        assert await router.choose_replicas(idle, request(1))

    asyncio.run(route())
