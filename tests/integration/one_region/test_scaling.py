"""Replicas come and go while the region is asked all the time: no query fails, none is wrong."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.runtime import names
from cluster.catalog.corpus_settings import CorpusSettings
from cluster.errors import InvalidArgument, NotFound
from cluster.query.search import SearchEffort, ShardQuery
from cluster.search.checks import BATCH_MAX
from tests.support.regions.search_region import (
    CORPUS,
    DIMENSION,
    REPLICAS,
    SHARDS,
    Load,
    SearchRegion,
    node_of_replica,
    replica_status,
    search_region,
    search_settings,
)
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
BUSY_MAX_S = 120.0
LOOK_EVERY_S = 0.5


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchRegion]:
    folder = tmp_path_factory.mktemp("scaled")
    # By the actors alone, so that they have something to do; and one gateway, on two nodes.
    settings = search_settings(folder, local_first=False, gateways=1)
    corpus = settings.corpora[CORPUS].model_dump() | {"replicas_max": REPLICAS + 1}
    corpora = {CORPUS: CorpusSettings.model_validate(corpus)}
    with search_region(folder, settings.model_copy(update={"corpora": corpora})) as found:
        yield found


def num_replicas(region: SearchRegion) -> tuple[int, int]:
    """Of all shards: how many there are, and how many of them serve; none while nobody says."""
    releases = [r for r in region.status().get("resident", ()) if r["release"] == 1]
    corpora = [corpus for release in releases for corpus in release["corpora"]]
    if not corpora:
        return 0, 0
    (corpus,) = corpora
    return corpus["replicas"], corpus["replicas_serving"]


def settled(region: SearchRegion, replicas: int) -> bool:
    return num_replicas(region) == (replicas * SHARDS, replicas * SHARDS)


def test_more_and_fewer_replicas_by_command_fail_no_query(region: SearchRegion) -> None:
    most = 4
    added = [names.replica(CORPUS, shard, most - 1) for shard in range(SHARDS)]
    with Load(region) as load:
        region.coordinator("scale", CORPUS, most)
        up_s = wait_until(lambda: settled(region, most), "all new replicas")
        load.go_on()
        nodes = {region.run(node_of_replica, name) for name in added}
        assert None not in nodes
        os.kill(region.run(replica_status, added[0]).pid, signal.SIGKILL)
        load.go_on()
        region.coordinator("scale", CORPUS, REPLICAS)
        wait_until(lambda: num_replicas(region)[0] == REPLICAS * SHARDS, "a smaller view")
        down_s = wait_until(
            lambda: all(region.run(replica_status, name) is None for name in added),
            "the end of the surplus",
        )
        load.go_on()
    what = f"scaled up in {up_s:.1f} s, down in {down_s:.1f} s"
    assert load.verdict(what) == ([], [])


SEARCHES_EACH = 6
"""So many that a replica has one to do while others are on their way to it and back."""


def keep_busy(replicas: list[str], is_enough: Callable[[], bool]) -> None:
    """Runs in the driver's process: each replica always has searches to do, until somebody says
    that it is enough or a long time has passed.
    """
    import ray

    from actors.runtime.calls import NAMESPACE

    rng = np.random.default_rng(1)
    actors = [ray.get_actor(name, namespace=NAMESPACE) for name in replicas]
    (version,) = ray.get(actors[0].status.remote()).index_versions
    query = ShardQuery(
        corpus=CORPUS,
        index_version=version,
        vectors=rng.standard_normal((BATCH_MAX, DIMENSION)).astype(np.float32),
        top_k=100,
        effort=SearchEffort(exact=True),
    )
    reference = ray.put(query)

    def ask(actor: Any) -> Any:
        return actor.search.remote(reference, 60.0)

    under_way = {ask(actor): actor for actor in actors for _ in range(SEARCHES_EACH)}
    look_s = time.monotonic()
    until_s = look_s + BUSY_MAX_S
    while time.monotonic() < until_s:
        if time.monotonic() >= look_s:
            if is_enough():
                return
            look_s = time.monotonic() + LOOK_EVERY_S
        (done,), _ = ray.wait(list(under_way))
        actor = under_way.pop(done)
        under_way[ask(actor)] = actor


def test_busy_replicas_get_help_by_themselves(region: SearchRegion, tmp_path: Path) -> None:
    wait_until(region.is_whole, "a whole region")
    assert num_replicas(region)[0] == REPLICAS * SHARDS
    replicas = [names.replica(CORPUS, s, r) for s in range(SHARDS) for r in range(REPLICAS)]
    enough = tmp_path / "enough"
    work = region.submit(keep_busy, replicas, enough.exists)
    try:
        took_s = wait_until(
            lambda: settled(region, REPLICAS + 1), "one more replica a shard", BUSY_MAX_S
        )
    finally:
        enough.touch()
        work.result(BUSY_MAX_S + 60)
    print(f"\none more replica a shard after {took_s:.1f} s of load")


def num_gateways() -> int:
    """Runs in the driver's process: those that take requests."""
    from ray import serve

    states = serve.status().applications["gateway"].deployments["gateway"].replica_states
    return sum(count for state, count in states.items() if state == "RUNNING")


def have_help() -> bool:
    return num_gateways() >= 2


def test_busy_gateways_get_help_by_themselves(region: SearchRegion) -> None:
    wait_until(region.is_whole, "a whole region")
    assert region.run(num_gateways) == 1
    replicas = [names.replica(CORPUS, s, r) for s in range(SHARDS) for r in range(REPLICAS)]
    # Searches that wait for busy shards pile up in the gateway.
    work = region.submit(keep_busy, replicas, have_help)
    with Load(region, clients=24, pause_s=0.0, timeout_ms=60_000) as load:
        work.result(BUSY_MAX_S + 60)
        assert region.run(have_help)
        load.go_on()
    assert load.verdict("one more gateway") == ([], [])


def test_what_cannot_be_scaled_is_refused(region: SearchRegion) -> None:
    with pytest.raises(NotFound, match="has a corpus 'nothing'"):
        region.coordinator("scale", "nothing", 2)
    with pytest.raises(InvalidArgument, match="replicas"):
        region.coordinator("scale", CORPUS, 0)
