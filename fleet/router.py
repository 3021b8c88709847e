"""How Ray Serve finds the replica for a request: by its prompt and their loads, as `affinity` decides."""

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from fleet.affinity import Affinity


class PromptRouter(RequestRouter):
    """Chooses the replica of each request, where Ray Serve lets one."""

    def initialize_state(self, slots: int, slack: int | None = None) -> None:
        self._affinity: Affinity[ReplicaID] = Affinity(slots, slack)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._affinity.update({replica.replica_id: replica.routing_stats.get("marks", []) for replica in replicas})

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        lengths = self.replica_queue_len_cache
        if unknown := [replica for replica in candidate_replicas if lengths.get(replica.replica_id) is None]:
            await self._probe_queue_lens(unknown, 0)
        replicas = {replica.replica_id: replica for replica in candidate_replicas}
        loads = {name: load for name in replicas if (load := lengths.get(name)) is not None}
        marks = pending_request.args[2] if pending_request and len(pending_request.args) > 2 else None
        if marks is None:
            return [[replicas[name] for name in loads]]
        chosen = self._affinity.choose(loads, marks)
        return [[replicas[chosen]]] if chosen else []
