"""A region whose control store keeps its state in a real Redis outlives the control store."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import InvalidArgument, Unavailable
from deployments.nodes.gcs_storage import check_redis
from tests.chaos.cluster_scenarios import control_stores
from tests.support.redis_server import REDIS, redis_says, redis_server
from tests.support.regions.search_region import (
    Load,
    SearchRegion,
    search_region,
    search_settings,
)
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(REDIS is None, reason="needs Debian's redis-server"),
    pytest.mark.timeout(600),
]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    with redis_server(tmp_path) as address:
        yield address


def test_a_redis_that_answers_is_taken(redis: str) -> None:
    check_redis(redis)


def test_one_that_asks_for_a_password_is_refused(tmp_path: Path) -> None:
    with (
        redis_server(tmp_path, "--requirepass", "secret") as address,
        pytest.raises(InvalidArgument, match="NOAUTH"),
    ):
        check_redis(address)


def test_one_that_is_not_there_is_named() -> None:
    with pytest.raises(Unavailable, match=r"gcs_redis: 127\.0\.0\.1:1 does not answer"):
        check_redis("127.0.0.1:1")


@pytest.mark.slow
def test_searches_releases_and_restarts_go_on_when_the_control_store_dies(
    tmp_path: Path, redis: str
) -> None:
    with search_region(tmp_path, search_settings(tmp_path, gcs_redis=redis)) as region:
        assert redis_says(redis, "DBSIZE") != ":0\r\n"
        with Load(region) as load:
            for _ in range(2):
                kill_control_store(region)
                load.go_on(100)
        failed, wrong = load.verdict("kill -9 of the control store, twice")
        assert (failed, wrong) == ([], [])
        # What needs a control store works: a release, and the restart of an actor.
        number = region.propose("b")
        region.coordinator("wait_until_serving", number, 120.0)
        (coordinator,) = region.cluster.pids("ray::Coordinator")
        os.kill(coordinator, signal.SIGKILL)
        wait_until(
            lambda: region.cluster.pids("ray::Coordinator") not in ([], [coordinator]),
            "another coordinator",
        )
        wait_until(region.is_whole, "a whole region")
    assert redis_says(redis, "DBSIZE") == ":0\r\n"


def kill_control_store(region: SearchRegion) -> None:
    """Returns when another one runs."""
    before = control_stores(region.cluster)
    assert len(before) == 1
    os.kill(before[0], signal.SIGKILL)
    took_s = wait_until(
        lambda: control_stores(region.cluster) not in ([], before), "another control store", 30
    )
    print(f"\nanother control store after {took_s:.1f} s")
