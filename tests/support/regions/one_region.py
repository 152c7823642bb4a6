"""One region's coordinator without its thread: the driver, and a host that only takes notes."""

from __future__ import annotations

import random

from cluster.clock import SystemClock
from cluster.releases.driver import RolloutDriver
from cluster.releases.entries import RELEASE_LOG, Release
from cluster.releases.release_log import SNAPSHOT_ENTRIES, ReleaseLog
from cluster.releases.requests import ProposeRelease
from cluster.releases.rollout import Rollout
from cluster.store.numbered_log import NumberedLog
from cluster.store.object_store import ObjectStore
from tests.support.fakes import SimClock, contents, counting_ids


class Host:
    """Notes what it is told to load and unload."""

    def __init__(self) -> None:
        self.preparing: list[int] = []
        self.retired: list[int] = []

    def prepare(self, release: Release) -> None:
        self.preparing.append(release.number)

    def retire(self, number: int) -> None:
        self.retired.append(number)


class Region:
    """One incarnation of a region's coordinator."""

    def __init__(
        self,
        store: ObjectStore,
        clock: SimClock | SystemClock,
        region: str = "a",
        life: int = 1,
        cluster_id: str = "",
        snapshot_entries: int = SNAPSHOT_ENTRIES,
    ) -> None:
        self.clock = clock
        self.host = Host()
        self.rollout = Rollout(region=region)
        self.log = NumberedLog(store, RELEASE_LOG)
        self.driver = RolloutDriver(
            rollout=self.rollout,
            store=store,
            log=ReleaseLog(
                store,
                rng=random.Random(0),
                sleep=clock.sleep,
                snapshot_entries=snapshot_entries,
            ),
            host=self.host,
            clock=clock,
            new_id=counting_ids(f"{region}/{life}"),
            cluster_id=cluster_id,
        )

    def step(self) -> None:
        self.driver.read()
        self.driver.decide(exchange_heartbeats=True)

    def propose(self, *targets: str) -> int:
        state = self.driver.request(
            ProposeRelease(contents=contents(), targets=targets, auto_commit=True)
        )
        return state.next_release - 1
