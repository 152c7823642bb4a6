"""Steady traffic over a replica set in virtual time, while its replicas slow down, hang and die."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from cluster.balance.replica_set import ReplicaSet
from cluster.balance.weights import OutcomeWeights
from cluster.clock import Deadline
from cluster.errors import DeadlineExceeded, RaygionError, Unavailable
from tests.simulation.clocks.sim_time import Scheduler
from tests.simulation.clocks.virtual_loop import VirtualLoop

USUAL_S = 0.02
TIMEOUT_S = 1.0
GRACE_S = 1e-6
"""For the rounding of virtual moments."""

every_start = pytest.mark.parametrize("start", range(3))
"""Seeds: a handful, since each run is tens of seconds of traffic."""


class SimReplica:
    """Answers in a time that varies; `mood` says what is wrong with it."""

    def __init__(self, replica_id: str, rng: random.Random) -> None:
        self.replica_id = replica_id
        self.slower = 1.0
        self.hangs = False
        self.dead = False
        self._rng = rng

    async def work(self) -> str:
        if self.dead:
            raise Unavailable(f"{self.replica_id} is gone")
        if self.hangs:
            await asyncio.Event().wait()
        await asyncio.sleep(USUAL_S * self.slower * self._rng.lognormvariate(0.0, 0.3))
        return self.replica_id


@dataclass(frozen=True)
class Query:
    began_s: float
    took_s: float
    error: RaygionError | None
    winner: str | None


class World:
    """A replica set, its traffic, and the record of both."""

    def __init__(self, start: int, *, num_replicas: int = 2, preferred: bool = False) -> None:
        rng = random.Random(start)
        self.scheduler = Scheduler()
        self.loop = VirtualLoop(self.scheduler)
        self.replicas = [SimReplica(f"r{n}", rng) for n in range(num_replicas)]
        weights = OutcomeWeights(now_s=self.loop.monotonic_s, rng=random.Random(start + 1))
        self.set = ReplicaSet(
            self.replicas, weights, preferred=self.replicas[0] if preferred else None
        )
        self.queries: list[Query] = []
        self.asked: list[tuple[float, str]] = []
        self.hedges = 0
        self._rng = rng
        self._running: set[asyncio.Task[None]] = set()

    def run(self, until_s: float, rate: float = 100.0) -> None:
        """Queries at random moments, `rate` a second; the last ones may still be on their way."""
        self.loop.run_until_complete(self._traffic(until_s, rate))

    def check(self) -> None:
        """What holds at the end of every story, when all queries have ended."""
        self.loop.run_until_complete(asyncio.sleep(2 * TIMEOUT_S))
        left = asyncio.all_tasks(self.loop)
        self.loop.close()
        assert not left
        assert self.hedges <= 0.05 * len(self.queries)

    def shares(self, since_s: float, until_s: float) -> Mapping[str, float]:
        """Which part of the requests went to which replica."""
        asked = Counter(name for at_s, name in self.asked if since_s <= at_s < until_s)
        return {r.replica_id: asked[r.replica_id] / asked.total() for r in self.replicas}

    @property
    def failed(self) -> list[Query]:
        return [query for query in self.queries if query.error is not None]

    async def _traffic(self, until_s: float, rate: float) -> None:
        next_s = self.loop.time() + self._rng.expovariate(rate)
        while next_s < until_s:
            await asyncio.sleep(next_s - self.loop.time())
            task = asyncio.create_task(self._query())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            next_s = self.loop.time() + self._rng.expovariate(rate)
        await asyncio.sleep(until_s - self.loop.time())

    async def _query(self) -> None:
        began_s = self.loop.time()
        deadline = Deadline.after(TIMEOUT_S, self.loop)
        running: set[str] = set()

        async def call(replica: SimReplica, timeout_s: float) -> str:
            assert not deadline.expired()
            assert self.loop.time() + timeout_s <= deadline.at_s + GRACE_S
            self.asked.append((self.loop.time(), replica.replica_id))
            self.hedges += bool(running)
            running.add(replica.replica_id)
            try:
                return await replica.work()
            finally:
                running.discard(replica.replica_id)

        winner, error = None, None
        try:
            winner = await self.set.ask(call, deadline)
        except RaygionError as caught:
            error = caught
        took_s = self.loop.time() - began_s
        assert took_s <= TIMEOUT_S + GRACE_S
        self.queries.append(Query(began_s, took_s, error, winner))


@every_start
@pytest.mark.parametrize("rate", [40.0, 200.0])
@pytest.mark.parametrize("num_replicas", [2, 3])
def test_a_tenfold_slower_replica_loses_its_share_in_a_second_and_regains_it(
    num_replicas: int, rate: float, start: int
) -> None:
    world = World(start, num_replicas=num_replicas)
    slow = world.replicas[-1]
    world.run(10.0, rate)
    slow.slower = 10.0
    world.run(31.0, rate)
    slow.slower = 1.0
    world.run(81.0, rate)
    world.check()
    fair = 1 / num_replicas
    assert world.shares(0.0, 10.0)[slow.replica_id] == pytest.approx(fair, rel=0.25)
    assert world.shares(11.0, 31.0)[slow.replica_id] < 0.05
    assert world.shares(61.0, 81.0)[slow.replica_id] == pytest.approx(fair, rel=0.25)
    assert not world.failed


@every_start
@pytest.mark.parametrize("preferred", [False, True])
def test_a_half_alive_replica_is_found_and_fails_no_query(start: int, preferred: bool) -> None:
    world = World(start, preferred=preferred)
    half_alive = world.replicas[0]
    world.run(10.0)
    half_alive.hangs = True
    world.run(40.0)
    half_alive.hangs = False
    world.run(90.0)
    world.check()
    assert not world.failed
    assert world.shares(11.0, 40.0)[half_alive.replica_id] < 0.02
    late = [q for q in world.queries if 11.0 <= q.began_s < 40.0 and q.took_s > 0.2]
    assert len(late) < 0.01 * 2900
    fair = 1.0 if preferred else 0.5
    assert world.shares(70.0, 90.0)[half_alive.replica_id] == pytest.approx(fair, rel=0.25)


@every_start
def test_a_replica_that_hangs_from_the_start_fails_no_query(start: int) -> None:
    world = World(start, num_replicas=3)
    world.replicas[0].hangs = True
    world.run(20.0, 20.0)
    world.check()
    assert not world.failed
    assert world.shares(5.0, 20.0)["r0"] < 0.05


@every_start
@pytest.mark.parametrize("preferred", [False, True])
def test_a_killed_replica_fails_no_query_and_is_asked_again_when_it_is_back(
    start: int, preferred: bool
) -> None:
    world = World(start, preferred=preferred)
    killed = world.replicas[0]
    world.run(10.0)
    killed.dead = True
    world.run(30.0)
    killed.dead = False
    world.run(80.0)
    world.check()
    assert not world.failed
    assert world.shares(11.0, 30.0)[killed.replica_id] < 0.02
    fair = 1.0 if preferred else 0.5
    assert world.shares(60.0, 80.0)[killed.replica_id] == pytest.approx(fair, rel=0.25)


@every_start
def test_rolling_losses_fail_no_query(start: int) -> None:
    world = World(start, num_replicas=3)
    world.run(5.0)
    for turn, replica in enumerate(world.replicas, 1):
        replica.dead = True
        world.run(10.0 * turn)
        replica.dead, replica.hangs = False, True
        world.run(10.0 * turn + 5.0)
        replica.hangs = False
    world.check()
    assert not world.failed


@every_start
@pytest.mark.parametrize("hangs", [False, True])
def test_when_all_are_lost_the_error_is_typed_and_in_time(start: int, hangs: bool) -> None:
    world = World(start)
    world.run(5.0)
    for replica in world.replicas:
        replica.hangs, replica.dead = hangs, not hangs
    world.run(15.0)
    for replica in world.replicas:
        replica.hangs = replica.dead = False
    world.run(20.0)
    world.check()
    lost = [query for query in world.queries if 5.1 <= query.began_s < 13.0]
    assert {type(query.error) for query in lost} == {DeadlineExceeded if hangs else Unavailable}
    # Their breakers are open, and they are asked all the same.
    assert not [query for query in world.failed if query.began_s >= 15.0]


@every_start
def test_a_tier_that_is_slow_as_a_whole_gets_few_hedges(start: int) -> None:
    world = World(start, num_replicas=3)
    world.run(10.0)
    for replica in world.replicas:
        replica.slower = 8.0
    world.run(40.0)
    world.check()
    assert not world.failed
    for share in world.shares(20.0, 40.0).values():
        assert share == pytest.approx(1 / 3, rel=0.35)


def test_the_same_start_gives_the_same_story() -> None:
    stories = []
    for _ in range(2):
        world = World(3)
        world.run(3.0)
        world.replicas[0].hangs = True
        world.run(6.0)
        world.check()
        stories.append((world.asked, world.queries))
    assert stories[0] == stories[1]
