"""A gateway that searches in its own process, with actors behind it: either may be lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from actors.runtime import names
from cluster.releases.requests import RollBackTo
from tests.support.regions.search_region import (
    CORPUS,
    REGION,
    REPLICAS,
    SHARDS,
    Load,
    SearchRegion,
    replica_status,
)
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
ALL_REPLICAS = [names.replica(CORPUS, s, r) for s in range(SHARDS) for r in range(REPLICAS)]


def test_the_gateway_answers_while_every_actor_is_stopped(region: SearchRegion) -> None:
    wait_until(region.is_whole, "a whole region")
    with region.client() as client:
        # What it has not opened yet, the actors serve.
        wait_until(lambda: region.is_right(region.search(client, 0), region.letters()), "an answer")
        pids = [region.run(replica_status, name).pid for name in ALL_REPLICAS]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            # What is not open here yet is left to actors first, which do not answer now.
            wait_until(
                lambda: not region.search(client, 0, timeout_ms=1000).error,
                "the gateway's own shards",
            )
            replies = [region.search(client, n) for n in range(len(region.queries))]
        finally:
            for pid in pids:
                # The region may have given it up meanwhile.
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
    letters = region.letters()
    assert all(region.is_right(reply, letters) for reply in replies)


def test_killing_every_actor_fails_no_query(region: SearchRegion) -> None:
    wait_until(region.is_whole, "a whole region")
    with Load(region) as load:
        for name in ALL_REPLICAS:
            os.kill(region.run(replica_status, name).pid, signal.SIGKILL)
        back_s = wait_until(lambda: not region.is_whole(), "the region noticing")
        back_s += wait_until(region.is_whole, "all replicas serving")
        load.go_on()
    assert load.verdict(f"killed all actors, whole after {back_s:.1f} s") == ([], [])


def test_a_switch_and_back_fails_no_query_though_the_cache_is_gone(
    region: SearchRegion, tmp_path: Path
) -> None:
    """Mapped files outlive their names, so what serves needs the node's cache no longer."""
    wait_until(region.is_whole, "a whole region")
    with Load(region) as load:
        number = region.propose("b")
        region.coordinator("wait_until_serving", number, 120.0)
        # Aside first, for what is going on may make files in a folder while it is removed.
        aside = region.installation.cache.folder.rename(tmp_path / "cache")
        shutil.rmtree(aside)
        load.go_on()
        region.request(RollBackTo())
        load.go_on()
    assert load.verdict("switched and back") == ([], [])


def test_actors_and_gateways_write_their_logs_as_json(region: SearchRegion) -> None:
    """An actor that Ray has started again does so, too."""

    def times(event: str) -> int:
        return [entry.get("event") for entry in logged(region)].count(event)

    wait_until(region.is_whole, "a whole region")
    prepared, missed = times("release.preparing"), times("coordinator.no_view")
    assert prepared > 0
    region.kill("ray::Coordinator")
    wait_until(lambda: times("coordinator.no_view") > missed, "a gateway that misses it")
    wait_until(lambda: times("release.preparing") > prepared, "the next coordinator")
    wait_until(region.is_whole, "a whole region")
    assert all(entry["region"] == REGION for entry in logged(region))


def logged(region: SearchRegion) -> list[dict[str, Any]]:
    """What the region's processes have written to their logs."""
    folder = region.cluster.temp_dir / "r" / "session_latest" / "logs"
    lines = [line for path in folder.glob("worker-*.err") for line in path.read_text().split("\n")]
    return [json.loads(line) for line in lines if line.startswith("{")]
