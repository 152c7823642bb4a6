"""Asking replicas one after the other: order, sharing of the time, which errors end it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from cluster.balancing import OutcomeWeights
from cluster.clock import SYSTEM_CLOCK, Deadline
from cluster.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Overloaded,
    RaygionError,
    Unavailable,
)
from cluster.replica_set import ReplicaSet
from cluster.search import ShardHits
from tests.fakes import A_QUERY, FakeReplica, SimClock, hits_of, never_reached

DOWN = Unavailable("down")


class OrderedWeights(OutcomeWeights):
    """Keeps the given order and notes what it is told."""

    def __init__(self) -> None:
        super().__init__(now_s=lambda: 0.0, rng=random.Random(0))
        self.told: list[tuple[str, float | None]] = []

    def order(self, replica_ids: Sequence[str]) -> list[str]:
        return list(replica_ids)

    def succeeded(self, replica_id: str, latency_s: float) -> None:
        self.told.append((replica_id, latency_s))

    def failed(self, replica_id: str) -> None:
        self.told.append((replica_id, None))


def ordered(*replicas: FakeReplica) -> tuple[ReplicaSet[FakeReplica], OrderedWeights]:
    weights = OrderedWeights()
    return ReplicaSet(replicas, weights), weights


async def search(replicas: ReplicaSet[FakeReplica], deadline: Deadline | None = None) -> ShardHits:
    return await replicas.ask(lambda r, t: r.search(A_QUERY, t), deadline or never_reached())


async def test_the_first_one_that_answers_ends_it() -> None:
    first, second = FakeReplica("1"), FakeReplica("2")
    replicas, weights = ordered(first, second)
    assert (await search(replicas)) is first.outcomes[0]
    assert (first.calls, second.calls) == (1, 0)
    assert [name for name, latency_s in weights.told if latency_s is not None] == ["1"]


@pytest.mark.parametrize(
    "error", [Unavailable("x"), Overloaded("x"), DeadlineExceeded("x"), Conflict("x")]
)
async def test_another_replica_is_asked_after_a_retryable_error(error: RaygionError) -> None:
    first, second = FakeReplica("1", [error]), FakeReplica("2", [hits_of(b"b")])
    replicas, weights = ordered(first, second)
    assert (await search(replicas)) is second.outcomes[0]
    assert [(name, latency_s is None) for name, latency_s in weights.told] == [
        ("1", True),
        ("2", False),
    ]


@pytest.mark.parametrize("error", [InvalidArgument("x", "vector"), NotFound("x")])
async def test_the_callers_own_error_is_raised_at_once_and_blames_nobody(
    error: RaygionError,
) -> None:
    first, second = FakeReplica("1", [error]), FakeReplica("2")
    replicas, weights = ordered(first, second)
    with pytest.raises(type(error)) as caught:
        await search(replicas)
    assert caught.value is error
    assert second.calls == 0
    assert weights.told == []


async def test_each_replica_is_asked_once_and_the_last_error_is_raised() -> None:
    last = Overloaded("full")
    asked = [FakeReplica("1", [DOWN]), FakeReplica("2", [DOWN]), FakeReplica("3", [last])]
    replicas, weights = ordered(*asked)
    with pytest.raises(Overloaded) as caught:
        await search(replicas)
    assert caught.value is last
    assert [replica.calls for replica in asked] == [1, 1, 1]
    assert weights.told == [("1", None), ("2", None), ("3", None)]


async def test_no_replica_at_all_is_an_error_not_a_hang() -> None:
    replicas, _ = ordered()
    with pytest.raises(DeadlineExceeded):
        await search(replicas)


async def test_the_time_left_is_shared_among_the_replicas_left() -> None:
    clock = SimClock()
    deadline = Deadline.after(9.0, clock)
    replicas, _ = ordered(FakeReplica("1"), FakeReplica("2"), FakeReplica("3"))
    given_s: list[float] = []

    async def fail_after_two_seconds(replica: FakeReplica, timeout_s: float) -> None:
        given_s.append(timeout_s)
        clock.sleep(2.0)
        raise DOWN

    with pytest.raises(Unavailable):
        await replicas.ask(fail_after_two_seconds, deadline)
    # 9 / 3, then what the first one left over goes to the others: 7 / 2, 5 / 1.
    assert given_s == [3.0, 3.5, 5.0]


async def test_nobody_is_asked_when_the_time_is_over() -> None:
    replica = FakeReplica("1")
    replicas, weights = ordered(replica)
    with pytest.raises(DeadlineExceeded):
        await search(replicas, Deadline.after(0.0))
    assert replica.calls == 0
    assert weights.told == []


async def test_a_replica_that_hangs_is_given_up_in_time_for_the_other() -> None:
    hanging, second = FakeReplica("1", [None]), FakeReplica("2")
    replicas, weights = ordered(hanging, second)
    deadline = Deadline.after(0.2)
    assert (await search(replicas, deadline)) is second.outcomes[0]
    assert not deadline.expired()
    assert hanging.cancelled == 1
    assert weights.told[0] == ("1", None)


async def test_when_all_hang_the_deadline_holds() -> None:
    hanging = [FakeReplica("1", [None]), FakeReplica("2", [None])]
    replicas, weights = ordered(*hanging)
    started_s = SYSTEM_CLOCK.monotonic_s()
    with pytest.raises(DeadlineExceeded, match="replica 2 did not answer"):
        await search(replicas, Deadline.after(0.1))
    assert SYSTEM_CLOCK.monotonic_s() - started_s < 5.0
    assert [replica.cancelled for replica in hanging] == [1, 1]
    assert weights.told == [("1", None), ("2", None)]


async def test_a_caller_that_goes_away_cancels_the_call_and_blames_nobody() -> None:
    hanging, second = FakeReplica("1", [None]), FakeReplica("2")
    replicas, weights = ordered(hanging, second)
    task = asyncio.create_task(search(replicas))
    await hanging.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert hanging.cancelled == 1
    assert second.calls == 0
    assert weights.told == []


async def test_durations_that_do_not_compare_are_not_learnt_from() -> None:
    replicas, weights = ordered(FakeReplica("1", [DOWN]), FakeReplica("2"))
    await replicas.ask(lambda r, t: r.search(A_QUERY, t), never_reached(), learn_speed=False)
    assert weights.told == [("1", None)]


async def test_a_replica_that_fails_is_asked_less_and_wins_its_share_back() -> None:
    clock = SimClock()
    good, bad = FakeReplica("good"), FakeReplica("bad", [DOWN] * 30 + [hits_of(b"a")])
    weights = OutcomeWeights(now_s=clock.monotonic_s, rng=random.Random(7))
    replicas = ReplicaSet([good, bad], weights)
    first_asked: Counter[tuple[str, str]] = Counter()

    async def run(phase: str, queries: int) -> None:
        for _ in range(queries):
            before = (good.calls, bad.calls)
            await replicas.ask(lambda r, t: r.search(A_QUERY, t), Deadline.after(1.0, clock))
            first_asked[phase, "good" if bad.calls == before[1] else "bad"] += 1
            clock.sleep(0.01)

    await run("failing", 500)
    await run("recovering", 6000)
    await run("recovered", 1000)
    assert bad.calls > 30
    assert first_asked["failing", "bad"] < 0.15 * 500
    assert first_asked["recovered", "bad"] > 0.3 * 1000
