"""Asking replicas: order, sharing of the time, and which errors end it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from cluster.balance.replica_set import ReplicaSet
from cluster.balance.weights import OutcomeWeights
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
from cluster.query.search import ShardHits
from tests.support.fakes import A_QUERY, FakeReplica, SimClock, hits_of, never_reached
from tests.support.worlds.ordered_replicas import ordered, search

DOWN = Unavailable("down")


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
    with pytest.raises(Unavailable, match="no replica"):
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


async def test_a_caller_without_patience_blames_nobody() -> None:
    clock = SimClock()

    async def take_a_second(replica: FakeReplica, timeout_s: float) -> None:
        clock.sleep(1.0)

    hanging = FakeReplica("1", [None])
    replicas, weights = ordered(hanging)
    for _ in range(30):
        await replicas.ask(take_a_second, Deadline.after(10.0, clock))
    weights.told.clear()
    with pytest.raises(DeadlineExceeded):
        await search(replicas, Deadline.after(0.01))
    assert hanging.cancelled == 1
    assert weights.told == []


async def test_the_preferred_replica_is_asked_first_while_its_breaker_lets_it() -> None:
    clock = SimClock()
    local = FakeReplica("local", [hits_of(b"a"), *[DOWN] * 5, hits_of(b"a")])
    others = [FakeReplica("1"), FakeReplica("2")]
    weights = OutcomeWeights(now_s=clock.monotonic_s, rng=random.Random(7))
    replicas = ReplicaSet([*others, local], weights, preferred=local)

    async def ask_often(times: int) -> int:
        """How often the preferred one was asked."""
        before = local.calls
        for _ in range(times):
            await search(replicas, Deadline.after(1.0, clock))
        return local.calls - before

    assert await ask_often(6) == 6
    assert not weights.passes("local")
    assert await ask_often(20) == 0
    clock.sleep(20.0)
    assert await ask_often(20) == 20
    assert weights.passes("local")


async def test_the_reserve_is_asked_last_even_after_those_with_an_open_breaker() -> None:
    reserve = FakeReplica("0", [hits_of(b"a")])
    others = [FakeReplica("1", [DOWN]), FakeReplica("2", [DOWN])]
    weights = OutcomeWeights(now_s=SimClock().monotonic_s, rng=random.Random(7))
    replicas = ReplicaSet([reserve, *others], weights, reserve=reserve)
    for times in range(1, 21):
        assert (await search(replicas)) is reserve.outcomes[0]
        assert [replica.calls for replica in others] == [times, times]
    assert not weights.passes("1")
    others[1].outcomes = [hits_of(b"b")]
    assert (await search(replicas)) is others[1].outcomes[0]
    assert reserve.calls == 20


async def test_a_lone_replica_is_asked_at_once_with_an_open_breaker() -> None:
    clock = SimClock()
    replica = FakeReplica("1", [*[DOWN] * 10, hits_of(b"a")])
    weights = OutcomeWeights(now_s=clock.monotonic_s, rng=random.Random(7))
    replicas = ReplicaSet([replica], weights)
    for _ in range(10):
        with pytest.raises(Unavailable):
            await search(replicas, Deadline.after(1.0, clock))
    assert not weights.passes("1")
    assert (await search(replicas, Deadline.after(1.0, clock))) is replica.outcomes[-1]


async def test_a_probe_that_no_caller_waits_for_makes_room_for_the_next() -> None:
    clock = SimClock()
    replica = FakeReplica("1", [*[DOWN] * 5, None, InvalidArgument("x", "vector"), hits_of(b"a")])
    weights = OutcomeWeights(now_s=clock.monotonic_s, rng=random.Random(7))
    replicas = ReplicaSet([replica], weights)
    for _ in range(5):
        with pytest.raises(Unavailable):
            await search(replicas)
    replica.asked.clear()
    clock.sleep(20.0)
    task = asyncio.create_task(search(replicas))
    await replica.asked.wait()
    assert not weights.passes("1")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert weights.passes("1")
    with pytest.raises(InvalidArgument):
        await search(replicas)
    assert weights.passes("1")
    await replicas.ask(lambda r, t: r.search(A_QUERY, t), never_reached(), learn_speed=False)
    assert weights.passes("1")


async def test_a_replica_that_fails_is_asked_less_and_wins_its_share_back() -> None:
    clock = SimClock()
    good, bad = FakeReplica("good"), FakeReplica("bad", [DOWN] * 12 + [hits_of(b"a")])
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
    assert bad.calls > 12
    assert first_asked["failing", "bad"] < 0.15 * 500
    assert first_asked["recovered", "bad"] > 0.3 * 1000


async def dispensable(replicas: ReplicaSet[FakeReplica], deadline: Deadline) -> ShardHits:
    """A search by somebody who can do without its answer."""
    return await replicas.ask(lambda r, t: r.search(A_QUERY, t), deadline, last_resort=False)


async def test_who_can_do_without_asks_no_replica_whose_breaker_is_open() -> None:
    first, second = FakeReplica("1"), FakeReplica("2", [DOWN])
    replicas, weights = ordered(first, second)
    weights.closed = {"2"}
    with pytest.raises(Unavailable) as caught:
        await dispensable(replicas, never_reached())
    assert caught.value is DOWN
    weights.closed = set()
    with pytest.raises(Unavailable, match="failed too often"):
        await dispensable(replicas, never_reached())
    assert (first.calls, second.calls) == (0, 1)
    # Others ask all the same.
    assert (await search(replicas)) is first.outcomes[0]


async def test_who_can_do_without_waits_no_longer_once_all_breakers_are_open() -> None:
    hanging = FakeReplica("1", [None, None, *[DOWN] * 5, None])
    weights = OutcomeWeights(now_s=lambda: 0.0, rng=random.Random(7))
    replicas = ReplicaSet([hanging], weights)
    waiting = asyncio.create_task(dispensable(replicas, never_reached()))
    patient = asyncio.create_task(search(replicas))
    for _ in range(5):
        await asyncio.sleep(0)
    assert hanging.calls == 2
    for _ in range(5):
        assert not waiting.done()
        with pytest.raises(Unavailable):
            await search(replicas)
    with pytest.raises(DeadlineExceeded):
        await waiting
    assert not patient.done()
    assert hanging.cancelled == 1
    patient.cancel()
    await asyncio.gather(patient, return_exceptions=True)


async def test_the_probe_of_a_breaker_is_waited_for() -> None:
    clock = SimClock()
    replica = FakeReplica("1", [*[DOWN] * 5, None])
    weights = OutcomeWeights(now_s=clock.monotonic_s, rng=random.Random(7))
    replicas = ReplicaSet([replica], weights)
    for _ in range(5):
        with pytest.raises(Unavailable):
            await search(replicas)
    clock.sleep(20.0)
    replica.asked.clear()
    probe = asyncio.create_task(dispensable(replicas, Deadline.after(30.0, clock)))
    await replica.asked.wait()
    with pytest.raises(Unavailable, match="failed too often"):
        await dispensable(replicas, Deadline.after(30.0, clock))
    assert not probe.done()
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
