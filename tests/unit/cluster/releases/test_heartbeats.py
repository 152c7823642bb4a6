"""What a region tells of itself: how current it is, that it lives, whose name it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast
from uuid import uuid4

import pytest

from cluster.errors import Conflict, Fenced, OutcomeUnknown, Unavailable
from cluster.releases.driver import RolloutDriver
from cluster.releases.entries import RELEASE_LOG
from cluster.releases.events import Prepared, RegionStatus
from cluster.releases.release_log import ReleaseLog
from cluster.store.numbered_log import NumberedLog
from cluster.store.object_store import ObjectStore, open_store
from tests.support.fakes import SimClock, counting_ids
from tests.support.regions.one_region import Region
from tests.support.store_fixtures import Door


@pytest.fixture
def store() -> ObjectStore:
    return open_store(f"memory://{uuid4().hex}")


@pytest.fixture
def clock() -> SimClock:
    return SimClock()


# How current a region is.


def test_freshness_is_of_the_last_complete_reading(store: ObjectStore, clock: SimClock) -> None:
    class Slow(Door):
        answer_s = 0.0

        def __getattr__(self, name: str) -> Callable[..., object]:
            clock.sleep(self.answer_s)
            return super().__getattr__(name)

    slow = Slow(store)
    region = Region(cast(ObjectStore, slow), clock)
    assert region.driver.freshness.read_ms == 0
    region.step()
    assert region.driver.freshness.position == 1
    clock.sleep(3.0)
    begun_ms, slow.answer_s = clock.wall_ms(), 2.0
    region.driver.read()
    assert clock.wall_ms() >= begun_ms + 2000
    assert region.driver.freshness.read_ms == begun_ms, "when it began, not when it ended"
    slow.shut = True
    clock.sleep(10.0)
    with pytest.raises(Unavailable):
        region.driver.read()
    assert region.driver.freshness.read_ms == begun_ms


# Heartbeats.


def test_heartbeats_are_told_and_read(store: ObjectStore, clock: SimClock) -> None:
    first, second = Region(store, clock, "a"), Region(store, clock, "b")
    first.step()
    second.step()
    clock.sleep(5.0)
    first.step()
    assert set(first.rollout.heartbeats) == {"a", "b"}
    told = RegionStatus.from_bytes(store.get("regions/b/status.json"), source="b")
    assert told == first.rollout.heartbeats["b"]


def told_by(store: ObjectStore, region: str) -> RegionStatus:
    return RegionStatus.from_bytes(store.get(f"regions/{region}/status.json"), source=region)


def test_a_heartbeat_is_written_each_second_and_when_there_is_more_to_tell(
    store: ObjectStore, clock: SimClock
) -> None:
    region = Region(store, clock)
    region.step()
    number = region.propose("a")
    region.step()
    first = told_by(store, "a")
    clock.sleep(0.5)
    region.step()
    assert told_by(store, "a") == first
    region.driver.observe(Prepared(release=number))
    region.step()
    assert told_by(store, "a").prepared == (number,)
    clock.sleep(1.0)
    region.step()
    assert told_by(store, "a").at_ms == clock.wall_ms()


def test_a_heartbeat_of_a_newer_version_may_tell_more(store: ObjectStore, clock: SimClock) -> None:
    region = Region(store, clock, "b")
    told = region.rollout.heartbeat(0).model_copy(update={"region": "a"}).to_bytes()
    store.put("regions/a/status.json", told.replace(b"{", b'{"mood":"good",', 1))
    region.step()
    assert set(region.rollout.heartbeats) == {"a", "b"}


def test_a_heartbeat_that_cannot_be_read_stops_nobody(store: ObjectStore, clock: SimClock) -> None:
    for path in ("regions/a/status.json", "regions/b/status.json"):
        store.put(path, b"{")
    region = Region(store, clock, "b")
    region.step()
    assert region.rollout.leads
    assert set(region.rollout.heartbeats) == {"b"}
    assert told_by(store, "b").region == "b"


def test_a_region_that_cannot_write_still_prepares_what_is_committed(
    store: ObjectStore, clock: SimClock
) -> None:
    class Hanging(Door):
        hangs = False

        def put(self, path: str, data: bytes) -> None:
            if self.hangs:
                raise OutcomeUnknown("the store does not answer")
            self._store.put(path, data)

    hanging = Hanging(store)
    leader, follower = Region(store, clock, "a"), Region(cast(ObjectStore, hanging), clock, "b")
    leader.step()
    follower.step()
    clock.sleep(2.0)
    number = leader.propose("a", "b")
    hanging.hangs = True
    with pytest.raises(OutcomeUnknown):
        follower.step()
    assert follower.host.preparing == [number]


def test_a_leader_whose_clock_is_off_is_not_replaced_and_a_dead_one_is(
    store: ObjectStore, clock: SimClock
) -> None:
    class Late(SimClock):
        """An hour behind."""

        def monotonic_s(self) -> float:
            return clock.monotonic_s()

        def wall_ms(self) -> int:
            return clock.wall_ms() - 3_600_000

    leader, follower = Region(store, clock, "a"), Region(store, Late(), "b")
    for _ in range(20):
        leader.step()
        follower.step()
        clock.sleep(0.5)
    assert (leader.rollout.leads, follower.rollout.leads) == (True, False)
    died_s = clock.now_s
    while not follower.rollout.leads:
        follower.step()
        clock.sleep(0.5)
    assert 2.5 <= clock.now_s - died_s <= 5.0


def test_who_appends_is_told_of(store: ObjectStore, clock: SimClock) -> None:
    told: list[int] = []
    region = Region(store, clock)
    region.driver = RolloutDriver(
        rollout=region.rollout,
        store=store,
        log=ReleaseLog(store),
        host=region.host,
        clock=clock,
        new_id=counting_ids("a"),
        appended=lambda: told.append(region.log.latest()),
    )
    region.step()
    region.propose("a")
    region.step()
    assert told == [1, 2]


# Two clusters under one name.


def test_a_second_cluster_of_the_same_name_changes_nothing(
    store: ObjectStore, clock: SimClock
) -> None:
    first = Region(store, clock, cluster_id="one")
    second = Region(store, clock, life=2, cluster_id="two")
    first.step()
    before = region_files(store)
    for _ in range(3):
        with pytest.raises(Conflict, match="still starting"):
            second.step()
    # Nothing tells yet whether the other one lives.
    with pytest.raises(Conflict, match="still starting"):
        second.propose("a")
    assert region_files(store) == before
    clock.sleep(1.0)
    first.step()
    for _ in range(10):
        clock.sleep(0.5)
        first.step()
        with pytest.raises(Conflict, match="runs already, in Ray cluster one"):
            second.step()
    assert first.log.latest() == 1
    assert told_by(store, "a").cluster_id == "one"
    with pytest.raises(Conflict, match="runs already"):
        second.propose("a")
    assert first.log.latest() == 1
    clock.sleep(3.0)
    second.step()
    assert second.rollout.leads, "once the other is gone"
    with pytest.raises(Fenced):
        first.step()


def region_files(store: ObjectStore) -> list[bytes]:
    log = NumberedLog(store, RELEASE_LOG)
    return [told_by(store, "a").to_bytes(), *(data for _, data in log.read_after(0))]
