"""Replica sets whose order is given, for tests that look at one question at a time."""

from __future__ import annotations

import random
from collections.abc import Sequence

from cluster.balance.replica_set import ReplicaSet
from cluster.balance.weights import OutcomeWeights
from cluster.clock import Deadline
from cluster.query.search import ShardHits
from tests.support.fakes import A_QUERY, FakeReplica, never_reached


class OrderedWeights(OutcomeWeights):
    """Keeps the given order and notes what it is told."""

    def __init__(self) -> None:
        super().__init__(now_s=lambda: 0.0, rng=random.Random(0))
        self.told: list[tuple[str, float | None]] = []
        self.closed: set[str] | None = None
        """Whose breakers are closed; None: all."""

    def passes(self, replica_id: str) -> bool:
        return self.closed is None or replica_id in self.closed

    def order(self, replica_ids: Sequence[str]) -> list[str]:
        return list(replica_ids)

    def succeeded(self, replica_id: str, latency_s: float, *, probe: bool = False) -> None:
        self.told.append((replica_id, latency_s))

    def failed(self, replica_id: str, *, probe: bool = False) -> None:
        self.told.append((replica_id, None))


def ordered(*replicas: FakeReplica) -> tuple[ReplicaSet[FakeReplica], OrderedWeights]:
    weights = OrderedWeights()
    return ReplicaSet(replicas, weights), weights


async def search(replicas: ReplicaSet[FakeReplica], deadline: Deadline | None = None) -> ShardHits:
    return await replicas.ask(lambda r, t: r.search(A_QUERY, t), deadline or never_reached())
