"""Spreads the calls of a Serve deployment over its replicas by how their earlier answers went."""

from __future__ import annotations

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from actors.models.replica_outcomes import ReplicaOutcomes, RoutingHint, outcomes_of

WEIGHTED_ROUTER = f"{__name__}:WeightedRouter"
"""Value for `RequestRouterConfig.request_router_class`."""


class WeightedRouter(RequestRouter):
    """Draws the replicas by weight without replacement and offers them one by one, those with an
    open circuit breaker last.

    Each rank holds a single replica, since Serve picks the shortest queue within a rank and the
    weights would be lost. A replica whose queue is full is passed over for the next in the draw;
    when all are full, Serve backs off and asks again, and the caller brings the deadline. All
    handles of one process share their weights; other processes learn on their own.
    """

    _outcomes: ReplicaOutcomes

    def initialize_state(self, **kwargs: object) -> None:
        self._outcomes = outcomes_of(self.app_name)

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        avoid_replica = None
        if pending_request is not None:
            # Without this Serve asks again in a tight loop while every queue is full.
            pending_request.routing_context.should_backoff = True
            hint = _hint_of(pending_request)
            avoid_replica = hint.avoid_replica if hint else None
        by_id = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        return [[by_id[chosen]] for chosen in self._outcomes.order(list(by_id), avoid_replica)]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: object
    ) -> None:
        if hint := _hint_of(pending_request):
            self._outcomes.routed(hint.attempt_id, replica_id.unique_id)

    def on_replica_actor_unavailable(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_unavailable(replica_id)
        self._outcomes.lost(replica_id.unique_id)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._outcomes.retain([replica.replica_id.unique_id for replica in replicas])


def _hint_of(pending_request: PendingRequest) -> RoutingHint | None:
    hint = pending_request.kwargs.get("routing")
    return hint if isinstance(hint, RoutingHint) else None
