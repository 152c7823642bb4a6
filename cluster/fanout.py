"""Scatter-gather: every shard is asked at once, and what does not answer is a number."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster.clock import Deadline
from cluster.errors import RaygionError
from cluster.replica_set import Replica, ReplicaSet
from cluster.search import Int64Array, Passages, ShardHits, ShardQuery


class ShardReplica(Replica, Protocol):
    """A copy of one shard.

    Failures: Unavailable when the replica does not answer or does not hold the index version,
    Overloaded when its queue is full, DeadlineExceeded; InvalidArgument for a bad query. The caller
    brings the timeout. Cancelling a call gives the work up.
    """

    async def search(self, query: ShardQuery, timeout_s: float) -> ShardHits: ...

    async def passages(
        self,
        corpus: str,
        index_version: str,
        rows: Int64Array,
        fields: tuple[str, ...] | None,
        timeout_s: float,
    ) -> Passages: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What the scatter brought in, in the order of the shards; None for a shard that is missing."""

    parts: tuple[ShardHits | None, ...]
    first_error: RaygionError | None

    @property
    def coverage(self) -> float:
        """Shards that answered / shards asked."""
        return sum(part is not None for part in self.parts) / len(self.parts)


async def scatter(
    shards: Sequence[ReplicaSet[ShardReplica]], query: ShardQuery, deadline: Deadline
) -> Gathered:
    """Searches all shards at once.

    A shard none of whose replicas answers in time is missing, not an error. An error that is the
    caller's own (not retryable) is raised.
    """
    outcomes = await asyncio.gather(
        *(shard.ask(lambda r, t: r.search(query, t), deadline) for shard in shards),
        return_exceptions=True,
    )
    parts: list[ShardHits | None] = []
    first_error: RaygionError | None = None
    for outcome in outcomes:
        if isinstance(outcome, RaygionError) and outcome.retryable:
            first_error = first_error or outcome
            parts.append(None)
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            parts.append(outcome)
    return Gathered(parts=tuple(parts), first_error=first_error)
