"""What a region does not survive, under `raygion up --watch`: how long it is away."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from deployments.nodes.local_cluster import LocalCluster
from tests.support.regions.watched_region import WatchedRegion, watched_region
from tests.support.waiting import wait_until

DEATHS = "death of the region"
_VICTIMS = ("gcs_server", "raylet")
_AWAY_S_MAX = 120.0


@dataclass(frozen=True, slots=True)
class Death:
    victim: str
    failed_s: float
    """From the kill to the first search that was not answered."""
    back_s: float
    """And to the first that was, by the region that came in its place."""
    wrong: int


def measure_deaths() -> list[Death]:
    """Kills one process after another that the region cannot do without, each once."""
    with (
        tempfile.TemporaryDirectory(prefix="rgc-") as folder,
        watched_region(Path(folder)) as region,
    ):
        return [kill(region, victim) for victim in _VICTIMS]


def kill(region: WatchedRegion, victim: str) -> Death:
    wrong = 0

    def is_answered() -> bool:
        nonlocal wrong
        found = region.ask()
        wrong += found is False
        return found is not None

    cluster = region.cluster
    assert cluster is not None
    wait_until(lambda: is_answered() and region.is_settled(), "an answer", _AWAY_S_MAX)
    os.kill(_pid_of(cluster, victim), signal.SIGKILL)
    started_s = time.monotonic()
    wait_until(lambda: not is_answered(), "the region's end", _AWAY_S_MAX)
    failed_s = time.monotonic() - started_s
    wait_until(is_answered, "the region's return", _AWAY_S_MAX)
    back_s = time.monotonic() - started_s
    assert region.cluster != cluster
    return Death(victim, failed_s, back_s, wrong)


def _pid_of(cluster: LocalCluster, name: str) -> int:
    return next(pid for pid in cluster.pids() if psutil.Process(pid).name() == name)
