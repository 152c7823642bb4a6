"""Scatter-gather: every shard is asked at once, and what does not answer is a number."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from cluster.arrays import Int64Array
from cluster.balance.replica_set import Replica, ReplicaSet
from cluster.clock import Deadline
from cluster.errors import RaygionError
from cluster.query.search import Passages, ShardHits, ShardQuery

T = TypeVar("T")


class SearchableReplica(Replica, Protocol):
    """A copy of one shard.

    Failures: Unavailable when the replica does not answer or does not hold the index version,
    Overloaded when its queue is full, DeadlineExceeded; InvalidArgument for a bad query. The caller
    brings the timeout. Cancelling a call gives the work up.
    """

    async def search(self, query: ShardQuery, timeout_s: float) -> ShardHits: ...

    async def passages(
        self,
        index_version: str,
        rows: Int64Array,
        fields: tuple[str, ...] | None,
        timeout_s: float,
    ) -> Passages: ...


class LocalShard(Protocol):
    """A shard in this very process, for what takes no longer than a turn of the event loop may; so
    long for each shard, and a search of several takes their sum.

    None means: ask a replica, since it would take longer or cannot be done here. InvalidArgument
    for a bad query.
    """

    def search_now(self, query: ShardQuery) -> ShardHits | None: ...

    def passages_now(
        self, index_version: str, rows: Int64Array, fields: tuple[str, ...] | None
    ) -> Passages | None: ...


@dataclass(frozen=True, slots=True)
class ShardAccess:
    """The ways to one shard: here and now where that is possible, otherwise by its replicas."""

    replicas: ReplicaSet[SearchableReplica]
    local: LocalShard | None = None

    def search_now(self, query: ShardQuery) -> ShardHits | None:
        return None if self.local is None else self.local.search_now(query)

    async def search(
        self, query: ShardQuery, deadline: Deadline, *, may_be_missing: bool = False
    ) -> ShardHits:
        return await self.replicas.ask(
            lambda r, t: r.search(query, t), deadline, last_resort=not may_be_missing
        )

    def passages_now(
        self, index_version: str, rows: Int64Array, fields: tuple[str, ...] | None
    ) -> Passages | None:
        return None if self.local is None else self.local.passages_now(index_version, rows, fields)

    async def passages(
        self,
        index_version: str,
        rows: Int64Array,
        fields: tuple[str, ...] | None,
        deadline: Deadline,
        *,
        may_be_missing: bool = False,
    ) -> Passages:
        return await self.replicas.ask(
            lambda r, t: r.passages(index_version, rows, fields, t),
            deadline,
            learn_speed=False,
            last_resort=not may_be_missing,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The results of the scatter, in the order of the shards; None for a shard that is missing."""

    hits: tuple[ShardHits | None, ...]
    first_error: RaygionError | None

    def without(self, lost: Mapping[int, RaygionError]) -> Gathered:
        """The same result, after these shards were lost, too."""
        if not lost:
            return self
        hits = tuple(None if n in lost else one for n, one in enumerate(self.hits))
        return Gathered(hits=hits, first_error=self.first_error or next(iter(lost.values())))

    @property
    def coverage(self) -> float:
        """Shards that answered / shards asked."""
        return sum([one is not None for one in self.hits]) / len(self.hits)


async def scatter(
    shards: Sequence[ShardAccess],
    query: ShardQuery,
    deadline: Deadline,
    *,
    may_be_missing: bool = False,
) -> Gathered:
    """Searches all shards at once.

    A shard none of whose replicas answers in time is missing, not an error. An error that is the
    caller's own (not retryable) is raised. `may_be_missing`: the caller accepts a result without
    some shards, so a shard whose replicas all have an open breaker is not waited for.
    """
    outcomes: list[ShardHits | RaygionError | None]
    outcomes = [shard.search_now(query) for shard in shards]
    asked = [number for number, outcome in enumerate(outcomes) if outcome is None]
    if asked:
        answers = await ask_all(
            [
                partial(shards[number].search, query, may_be_missing=may_be_missing)
                for number in asked
            ],
            deadline,
        )
        for number, answer in zip(asked, answers, strict=True):
            outcomes[number] = answer
    errors = [outcome for outcome in outcomes if isinstance(outcome, RaygionError)]
    return Gathered(
        hits=tuple(None if isinstance(o, RaygionError) else o for o in outcomes),
        first_error=errors[0] if errors else None,
    )


async def ask_all(
    calls: Sequence[Callable[[Deadline], Awaitable[T]]], deadline: Deadline
) -> list[T | RaygionError]:
    """The result of each call, or its error; all calls run at once. Raises only errors that are the
    caller's own fault, and then gives the other calls up.
    """
    tasks = [asyncio.create_task(_ask(call, deadline)) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        # After the caller's own error the others need not go on.
        for task in tasks:
            task.cancel()


async def _ask(call: Callable[[Deadline], Awaitable[T]], deadline: Deadline) -> T | RaygionError:
    try:
        return await call(deadline)
    except RaygionError as error:
        if not error.retryable:
            raise
        return error
