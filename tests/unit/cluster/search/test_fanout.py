"""Scatter-gather: what is missing is a number, what is wrong with the query is an error."""

from __future__ import annotations

import asyncio
import random

import pytest

from cluster.arrays import Int64Array
from cluster.balance.replica_set import ReplicaSet
from cluster.balance.weights import OutcomeWeights
from cluster.clock import Deadline
from cluster.errors import DeadlineExceeded, InvalidArgument, RaygionError, Unavailable
from cluster.query.search import Passages, ShardHits, ShardQuery
from cluster.search.fanout import ShardAccess, scatter
from tests.support.fakes import A_QUERY, FakeReplica, hits_of, never_reached

DOWN = Unavailable("down")
HITS = [hits_of(b"a"), hits_of(b"b"), hits_of(b"c")]


def shard(*replicas: FakeReplica, local: FakeLocalShard | None = None) -> ShardAccess:
    weights = OutcomeWeights(now_s=lambda: 0.0, rng=random.Random(1))
    return ShardAccess(ReplicaSet(replicas, weights), local)


class FakeLocalShard:
    """Answers at once with `outcome`, where None sends the caller to a replica."""

    def __init__(self, outcome: ShardHits | InvalidArgument | None) -> None:
        self._outcome = outcome
        self.calls = 0

    def search_now(self, query: ShardQuery) -> ShardHits | None:
        self.calls += 1
        if isinstance(self._outcome, InvalidArgument):
            raise self._outcome
        return self._outcome

    def passages_now(
        self, index_version: str, rows: Int64Array, fields: tuple[str, ...] | None
    ) -> Passages | None:
        raise AssertionError("nobody asks this shard for passages")


async def test_every_shard_is_asked_once_and_parts_keep_their_order() -> None:
    replicas = [FakeReplica(str(n), [hits]) for n, hits in enumerate(HITS)]
    gathered = await scatter([shard(r) for r in replicas], A_QUERY, never_reached())
    assert all(part is hits for part, hits in zip(gathered.hits, HITS, strict=True))
    assert gathered.coverage == 1.0
    assert gathered.first_error is None
    assert [replica.calls for replica in replicas] == [1, 1, 1]


@pytest.mark.parametrize("missing", [{0}, {2}, {0, 1}, {0, 1, 2}])
async def test_a_missing_shard_lowers_the_coverage(missing: set[int]) -> None:
    shards = [
        shard(FakeReplica(str(n), [DOWN if n in missing else hits])) for n, hits in enumerate(HITS)
    ]
    gathered = await scatter(shards, A_QUERY, never_reached())
    assert [part is None for part in gathered.hits] == [n in missing for n in range(3)]
    assert gathered.coverage == pytest.approx(1 - len(missing) / 3)
    assert gathered.first_error is DOWN


async def test_a_lost_replica_costs_no_coverage() -> None:
    shards = [
        shard(FakeReplica(f"{n}/1", [DOWN]), FakeReplica(f"{n}/2", [hits]))
        for n, hits in enumerate(HITS)
    ]
    gathered = await scatter(shards, A_QUERY, never_reached())
    assert gathered.coverage == 1.0
    assert gathered.first_error is None


async def test_a_shard_that_hangs_is_missing_when_the_time_is_over() -> None:
    hanging = FakeReplica("1", [None])
    gathered = await scatter(
        [shard(FakeReplica("0")), shard(hanging)], A_QUERY, Deadline.after(0.05)
    )
    assert gathered.coverage == 0.5
    assert isinstance(gathered.first_error, DeadlineExceeded)
    assert hanging.cancelled == 1


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("others", [DOWN, HITS[0]])
async def test_the_callers_own_error_is_raised_whatever_the_others_say(
    position: int, others: object
) -> None:
    wrong = InvalidArgument("dimension 3, not 4", "vector")
    outcomes: list[object] = [others] * 3
    outcomes[position] = wrong
    shards = [shard(FakeReplica(str(n), [outcome])) for n, outcome in enumerate(outcomes)]  # type: ignore[list-item]
    with pytest.raises(InvalidArgument) as caught:
        await scatter(shards, A_QUERY, never_reached())
    assert caught.value is wrong


async def test_a_bug_in_a_replica_is_not_taken_for_a_missing_shard() -> None:
    class Broken(FakeReplica):
        async def search(self, *args: object) -> None:  # type: ignore[override]
            raise KeyError("bug")

    with pytest.raises(KeyError):
        await scatter([shard(FakeReplica("0")), shard(Broken("1"))], A_QUERY, never_reached())


async def test_shards_are_asked_at_the_same_time() -> None:
    both_asked = asyncio.Barrier(2)

    class Meeting(FakeReplica):
        async def search(self, *args: object) -> object:  # type: ignore[override]
            await both_asked.wait()
            return HITS[0]

    gathered = await scatter(
        [shard(Meeting("0")), shard(Meeting("1"))], A_QUERY, Deadline.after(10)
    )
    assert gathered.coverage == 1.0


async def test_a_caller_that_goes_away_cancels_every_shard() -> None:
    hanging = [FakeReplica("0", [None]), FakeReplica("1", [None])]
    task = asyncio.create_task(scatter([shard(r) for r in hanging], A_QUERY, never_reached()))
    for replica in hanging:
        await replica.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [replica.cancelled for replica in hanging] == [1, 1]


def test_only_errors_that_another_try_may_mend_make_a_shard_missing() -> None:
    # Should a class change sides, `scatter` changes with it: this pins the side.
    assert Unavailable.retryable
    assert not InvalidArgument.retryable
    assert not RaygionError.retryable


async def test_a_local_shard_answers_without_a_call_and_replicas_do_the_rest() -> None:
    replicas = [FakeReplica(str(n), [hits]) for n, hits in enumerate(HITS)]
    locals_ = [FakeLocalShard(HITS[0]), FakeLocalShard(None), None]
    routes = [shard(r, local=local) for r, local in zip(replicas, locals_, strict=True)]
    gathered = await scatter(routes, A_QUERY, never_reached())
    assert all(part is hits for part, hits in zip(gathered.hits, HITS, strict=True))
    assert [replica.calls for replica in replicas] == [0, 1, 1]


async def test_a_local_shard_refuses_what_is_wrong_with_the_query() -> None:
    replica, wrong = FakeReplica("0"), InvalidArgument("no", "vectors")
    with pytest.raises(InvalidArgument):
        await scatter([shard(replica, local=FakeLocalShard(wrong))], A_QUERY, never_reached())
    assert replica.calls == 0
