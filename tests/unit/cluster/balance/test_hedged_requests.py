"""The hedge: who wins, who is cancelled, who is blamed, and when there is none."""

from __future__ import annotations

import asyncio

import pytest

from cluster.balance.hedging import HedgeSettings
from cluster.balance.replica_set import ReplicaSet
from cluster.clock import Deadline
from cluster.errors import InvalidArgument, NotFound, Unavailable
from cluster.query.search import ShardHits, ShardQuery
from tests.support.fakes import A_QUERY, FakeReplica, SimClock, never_reached
from tests.support.worlds.ordered_replicas import OrderedWeights, search

DOWN = Unavailable("down")
EAGER = HedgeSettings(samples_min=1, samples_max=1, delay_s_min=0.001, extra_max=1.0)
"""A hedge for each request, a moment after it."""


async def hedged(
    *replicas: FakeReplica, settings: HedgeSettings = EAGER
) -> tuple[ReplicaSet[FakeReplica], OrderedWeights]:
    """A set that knows how quick an answer usually is."""
    weights = OrderedWeights()
    known = ReplicaSet(replicas, weights, hedging=settings)
    await known.ask(_answer, never_reached())
    weights.told.clear()
    return known, weights


async def _answer(replica: FakeReplica, timeout_s: float) -> None:
    return None


class OutlastingReplica(FakeReplica):
    """Ends, by its outcome, only after another replica was asked."""

    async def search(self, query: ShardQuery, timeout_s: float) -> ShardHits:
        await self.asked.wait()
        return await super().search(query, timeout_s)


async def test_a_replica_that_is_late_is_overtaken_by_the_next() -> None:
    hanging, second, third = FakeReplica("1", [None]), FakeReplica("2"), FakeReplica("3")
    replicas, weights = await hedged(hanging, second, third)
    assert (await search(replicas)) is second.outcomes[0]
    assert (hanging.cancelled, third.calls) == (1, 0)
    assert [(name, latency_s is None) for name, latency_s in weights.told] == [
        ("2", False),
        ("1", True),
    ]


async def test_a_hedge_that_comes_second_is_cancelled_and_not_blamed() -> None:
    hanging = FakeReplica("2", [None])
    first = OutlastingReplica("1", asked=hanging.asked)
    replicas, weights = await hedged(first, hanging)
    assert (await search(replicas)) is first.outcomes[0]
    await asyncio.sleep(0)
    assert hanging.cancelled == 1
    assert [name for name, latency_s in weights.told if latency_s is not None] == ["1"]
    assert len(weights.told) == 1


async def test_a_hedge_that_fails_leaves_the_first_alone() -> None:
    second = FakeReplica("2", [DOWN])
    first = OutlastingReplica("1", asked=second.asked)
    replicas, weights = await hedged(first, second)
    assert (await search(replicas)) is first.outcomes[0]
    assert [(name, latency_s is None) for name, latency_s in weights.told] == [
        ("2", True),
        ("1", False),
    ]


async def test_a_first_that_fails_leaves_the_hedge_alone() -> None:
    second = OutlastingReplica("2")
    first = OutlastingReplica("1", [DOWN], asked=asyncio.Event())

    async def call(replica: FakeReplica, timeout_s: float) -> ShardHits:
        if replica is second:
            first.asked.set()  # The first one fails while the second is at work.
            asyncio.get_running_loop().call_later(0.001, second.asked.set)
        return await replica.search(A_QUERY, timeout_s)

    replicas, weights = await hedged(first, second)
    assert (await replicas.ask(call, never_reached())) is second.outcomes[0]
    assert [(name, latency_s is None) for name, latency_s in weights.told] == [
        ("1", True),
        ("2", False),
    ]


async def test_when_first_and_hedge_fail_the_others_are_asked() -> None:
    second, third = FakeReplica("2", [DOWN]), FakeReplica("3")
    first = OutlastingReplica("1", [DOWN], asked=second.asked)
    replicas, _ = await hedged(first, second, third)
    assert (await search(replicas)) is third.outcomes[0]
    assert [replica.calls for replica in (first, second, third)] == [1, 1, 1]


@pytest.mark.parametrize("error", [InvalidArgument("x", "vector"), KeyError("a bug")])
async def test_what_no_other_replica_would_mend_ends_the_race(error: Exception) -> None:
    hanging, second = FakeReplica("1", [None]), FakeReplica("2")

    async def call(replica: FakeReplica, timeout_s: float) -> ShardHits:
        if replica is second:
            raise error
        return await replica.search(A_QUERY, timeout_s)

    replicas, weights = await hedged(hanging, second)
    with pytest.raises(type(error)) as caught:
        await replicas.ask(call, never_reached())
    assert caught.value is error
    assert hanging.cancelled == 1
    assert weights.told == []


async def test_the_callers_own_error_does_not_wait_for_the_hedge() -> None:
    hanging = FakeReplica("2", [None])
    first = OutlastingReplica("1", [NotFound("x")], asked=hanging.asked)
    replicas, weights = await hedged(first, hanging)
    with pytest.raises(NotFound):
        await search(replicas, Deadline.after(5.0))
    await asyncio.sleep(0)
    assert hanging.cancelled == 1
    assert weights.told == []


async def test_a_caller_that_goes_away_cancels_both_and_blames_nobody() -> None:
    hanging = [FakeReplica("1", [None]), FakeReplica("2", [None])]
    replicas, weights = await hedged(*hanging)
    task = asyncio.create_task(search(replicas))
    await hanging[1].asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert [replica.cancelled for replica in hanging] == [1, 1]
    assert weights.told == []


async def test_without_a_budget_the_next_replica_waits_for_its_share() -> None:
    settings = HedgeSettings(samples_min=1, delay_s_min=0.001, extra_max=0.0)
    hanging, second = FakeReplica("1", [None]), FakeReplica("2")
    replicas, _ = await hedged(hanging, second, settings=settings)
    assert (await search(replicas, Deadline.after(0.2))) is second.outcomes[0]
    assert second.timeouts_s[0] <= 0.1


async def test_a_replica_with_an_open_breaker_gets_no_hedge() -> None:
    hanging, second = FakeReplica("1", [None]), FakeReplica("2")
    replicas, weights = await hedged(hanging, second)
    weights.closed = {"1"}
    assert (await search(replicas, Deadline.after(0.2))) is second.outcomes[0]
    assert second.timeouts_s[0] <= 0.1


async def test_no_hedge_is_sent_after_the_deadline() -> None:
    clock = SimClock()
    second = FakeReplica("2")
    replicas, _ = await hedged(FakeReplica("1"), second)
    late = asyncio.Event()

    async def call(replica: FakeReplica, timeout_s: float) -> None:
        if replica is second:
            second.timeouts_s.append(timeout_s)
        clock.sleep(5.0)
        asyncio.get_running_loop().call_later(0.01, late.set)
        await late.wait()

    await replicas.ask(call, Deadline.after(1.0, clock))
    assert second.calls == 0


async def test_a_hedge_whose_time_is_over_before_it_starts_is_not_sent() -> None:
    clock = SimClock()

    class LateWeights(OrderedWeights):
        def passes(self, replica_id: str) -> bool:
            # Asked when the hedge is due: the event loop is late by five seconds after that.
            asyncio.get_running_loop().call_soon(clock.sleep, 5.0)
            asyncio.get_running_loop().call_later(0.01, first.asked.set)
            return True

    first, second = OutlastingReplica("1"), FakeReplica("2")
    replicas = ReplicaSet([first, second], LateWeights(), hedging=EAGER)
    await replicas.ask(_answer, never_reached())
    assert (await search(replicas, Deadline.after(1.0, clock))) is first.outcomes[0]
    assert second.calls == 0
