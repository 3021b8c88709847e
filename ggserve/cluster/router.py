"""The request router of Ray Serve: it finds a replica by the request's prompt and the replicas' loads, with
`affinity`."""

import asyncio
import time
from collections import Counter

from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from ggserve.cluster.affinity import Affinity

_PATIENCE_SECONDS = 20.0  # timeout of requests while there is no replica at all
_SENT_SECONDS = 1.0  # the time after which the queue length that a replica reports certainly includes a request


class PromptRouter(RequestRouter):
    """Chooses the replica of each request when Ray Serve asks."""

    def initialize_state(self, slots: int, slack: int | None = None) -> None:
        self._affinity: Affinity[ReplicaID] = Affinity(slots, slack)
        self._giving_up: asyncio.TimerHandle | None = None
        # by request: the replica, and time.monotonic() of the choice
        self._sent: dict[str, tuple[ReplicaID, float]] = {}

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._affinity.update({replica.replica_id: replica.routing_stats.get("marks", []) for replica in replicas})
        if self._giving_up:
            self._giving_up.cancel()
        self._giving_up = None if replicas else self._event_loop.call_later(_PATIENCE_SECONDS, self._give_up)

    def _give_up(self) -> None:
        """Ray would let requests wait for a replica for ever, even when the whole application is about to end."""
        for request in self._pending_requests_to_fulfill:
            if not request.future.done():
                request.future.set_exception(DeploymentUnavailableError(self._deployment_id))
        self._giving_up = self._event_loop.call_later(_PATIENCE_SECONDS, self._give_up)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        lengths = self.replica_queue_len_cache
        if unknown := [replica for replica in candidate_replicas if lengths.get(replica.replica_id) is None]:
            await self._probe_queue_lens(unknown, 0)
        replicas = {replica.replica_id: replica for replica in candidate_replicas}
        sent = self._count_sent()
        loads = {name: max(load, sent[name]) for name in replicas if (load := lengths.get(name)) is not None}
        marks = pending_request.args[2] if pending_request and len(pending_request.args) > 2 else None
        if pending_request is None or marks is None:
            return [[replicas[name] for name in loads]]
        chosen = self._affinity.choose(loads, marks)
        if chosen is None:
            return []
        self._sent[pending_request.metadata.internal_request_id] = chosen, time.monotonic()
        return [[replicas[chosen]]]

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        self._sent.pop(internal_request_id, None)

    def _count_sent(self) -> Counter[ReplicaID]:
        """Return the requests that were sent to each replica just now: Ray's queue lengths may be older."""
        oldest = time.monotonic() - _SENT_SECONDS
        self._sent = {request: sent for request, sent in list(self._sent.items()) if sent[1] > oldest}
        return Counter(replica for replica, _ in self._sent.values())
