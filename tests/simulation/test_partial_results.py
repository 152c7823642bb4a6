"""Searches of two shards in virtual time, while one shard hangs and comes back."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Self

import numpy as np
import pytest

from actors.query.shard_search import Patience, SearchKind, ShardSearch
from cluster.arrays import Int64Array
from cluster.balance.replica_set import ReplicaSet
from cluster.balance.weights import OutcomeWeights
from cluster.clock import Deadline
from cluster.errors import DeadlineExceeded, RaygionError
from cluster.query.search import Passages, SearchEffort, ShardHits, ShardQuery
from cluster.search.fanout import ShardAccess
from cluster.vectors.metric import Metric
from tests.simulation.clocks.sim_time import Scheduler
from tests.simulation.clocks.virtual_loop import VirtualLoop

USUAL_S = 0.005
PARTIAL_SHARE = 0.8
GRACE_S = 1e-6
"""For the rounding of virtual moments."""
VECTOR = np.ones((1, 4), dtype=np.float32)


class SimShard:
    """One replica of a shard. Its texts are always there; its index may hang."""

    def __init__(self, replica_id: str, rng: random.Random) -> None:
        self.replica_id = replica_id
        self.hangs = False
        self._rng = rng

    async def search(self, query: ShardQuery, timeout_s: float) -> ShardHits:
        if self.hangs:
            await asyncio.Event().wait()
        await asyncio.sleep(USUAL_S * self._rng.lognormvariate(0.0, 0.3))
        n = len(query.vectors)
        return ShardHits(
            scores=np.ones((n, 1), dtype=np.float32),
            rows=np.zeros((n, 1), dtype=np.int64),
            ids=np.full((n, 1), self.replica_id.encode()),
        )

    async def passages(
        self,
        index_version: str,
        rows: Int64Array,
        fields: tuple[str, ...] | None,
        timeout_s: float,
    ) -> Passages:
        return Passages(texts=("",) * len(rows), metadata=({},) * len(rows))


@dataclass(frozen=True)
class Ended:
    began_s: float
    took_s: float
    coverage: float | None
    error: RaygionError | None


class World:
    """Two shards, searches at random moments, and how they ended."""

    def __init__(self, start: int, *, replicas: int) -> None:
        self.loop = VirtualLoop(Scheduler())
        self._rng = random.Random(start)
        self.shards = [
            [SimShard(f"{shard}/{replica}", self._rng) for replica in range(replicas)]
            for shard in range(2)
        ]
        self._routes = []
        for shard in self.shards:
            weights = OutcomeWeights(now_s=self.loop.monotonic_s, rng=self._rng)
            self._routes.append(ShardAccess(ReplicaSet(shard, weights)))
        self._search = ShardSearch(self.loop)
        self.ended: list[Ended] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        left = asyncio.all_tasks(self.loop)
        self.loop.close()
        assert not left

    def run(self, seconds: float, *, rate: float, timeout_s: float, partial: bool = True) -> None:
        """Searches at a mean rate for so long; returns when the last one has ended."""
        self.loop.run_until_complete(self._traffic(seconds, rate, timeout_s, partial))

    def hang(self, hangs: bool, *, replicas: int | None = None) -> None:
        """So many replicas of the second shard; None: all."""
        for replica in self.shards[1][:replicas]:
            replica.hangs = hangs

    async def _traffic(self, seconds: float, rate: float, timeout_s: float, partial: bool) -> None:
        ends_s = self.loop.time() + seconds
        async with asyncio.TaskGroup() as searches:
            while self.loop.time() < ends_s:
                searches.create_task(self._one(timeout_s, partial))
                await asyncio.sleep(self._rng.expovariate(rate))

    async def _one(self, timeout_s: float, partial: bool) -> None:
        deadline = Deadline.after(timeout_s, self.loop)
        waits_s = PARTIAL_SHARE * timeout_s
        until = Deadline.after(waits_s, self.loop)
        patience = Patience(waits_s=waits_s, until=until) if partial else None
        began_s, coverage, error = self.loop.time(), None, None
        try:
            found = await self._search.search(self._kind(patience), VECTOR, deadline, patience)
            coverage = found.coverage
        except RaygionError as caught:
            error = caught
        self.ended.append(Ended(began_s, self.loop.time() - began_s, coverage, error))

    def _kind(self, patience: Patience | None) -> SearchKind:
        return SearchKind(
            corpus="c",
            index_version="v",
            metric=Metric.INNER_PRODUCT,
            top_k=5,
            fields=None,
            effort=SearchEffort(),
            passages=True,
            patience=None if patience is None else patience.magnitude,
            filter_key=b"",
            filter=None,
            shards=self._routes,
        )


@pytest.mark.parametrize("was_well", [False, True])
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize(("rate", "timeout_s"), [(80.0, 1.0), (400.0, 1.0), (80.0, 5.0)])
def test_partial_results_come_in_the_promised_time(
    rate: float, timeout_s: float, replicas: int, was_well: bool
) -> None:
    with World(1, replicas=replicas) as world:
        if was_well:
            world.run(1.0, rate=rate, timeout_s=timeout_s)
            assert all(one.coverage == 1.0 for one in world.ended)
            world.ended.clear()
        world.hang(True)
        world.run(2.0 * timeout_s, rate=rate, timeout_s=timeout_s)
        assert {one.coverage for one in world.ended} == {0.5}
        assert max(one.took_s for one in world.ended) <= PARTIAL_SHARE * timeout_s + GRACE_S
        # Once the breakers are open, only their probes wait.
        known_s = world.ended[0].began_s + timeout_s
        quick = [one for one in world.ended if one.began_s > known_s and one.took_s < 10 * USUAL_S]
        after = [one for one in world.ended if one.began_s > known_s]
        assert len(quick) >= 0.95 * len(after)


@pytest.mark.parametrize("start", range(2))
def test_a_shard_that_is_back_is_found_again(start: int) -> None:
    with World(start, replicas=2) as world:
        world.hang(True)
        world.run(5.0, rate=80.0, timeout_s=1.0)
        world.hang(False)
        world.run(9.0, rate=80.0, timeout_s=1.0)
        assert {one.coverage for one in world.ended[-400:]} == {1.0}


@pytest.mark.parametrize("start", range(2))
def test_searches_do_not_wait_behind_one_that_waits_for_a_replica_that_hangs(start: int) -> None:
    """Where no shard may be missing: the other replica answers, and the queue stays short."""
    with World(start, replicas=2) as world:
        world.hang(True, replicas=1)
        world.run(4.0, rate=80.0, timeout_s=2.0, partial=False)
        assert all(one.coverage == 1.0 for one in world.ended)
        took_s = sorted(one.took_s for one in world.ended if one.began_s < 1.0)
        # Half of them meet the replica that hangs at first, and none of the others waits for those.
        assert took_s[len(took_s) // 4] < 0.2


@pytest.mark.parametrize("start", range(2))
def test_without_partial_results_a_shard_that_hangs_is_an_error_in_time(start: int) -> None:
    with World(start, replicas=2) as world:
        world.hang(True)
        world.run(5.0, rate=80.0, timeout_s=1.0, partial=False)
        # Their breakers are open by the end, and they are asked all the same.
        assert all(
            isinstance(one.error, DeadlineExceeded) or one.coverage == 0.5 for one in world.ended
        )
        assert max(one.took_s for one in world.ended) <= 1.0 + GRACE_S
