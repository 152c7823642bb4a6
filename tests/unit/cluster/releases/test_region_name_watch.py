"""One region name, two clusters: the second is refused, a dead one's successor is not."""

from __future__ import annotations

from uuid import uuid4

import pytest

from cluster.errors import Conflict
from cluster.releases.events import RegionStatus, heartbeat_path
from cluster.releases.region_name_watch import (
    STANDSTILL_S,
    NameState,
    RegionNameWatch,
    wait_for_free_name,
)
from cluster.store.object_store import ObjectStore, open_store
from tests.support.fakes import SimClock


def beat(cluster_id: str, at_ms: int = 0) -> RegionStatus:
    return RegionStatus(
        region="a", position=0, prepared=(), current=None, cluster_id=cluster_id, at_ms=at_ms
    )


def test_a_name_that_nobody_has_and_ones_own_are_free() -> None:
    watch = RegionNameWatch("mine")
    assert watch.look(None, 0.0) is NameState.FREE
    assert watch.look(beat("mine"), 1.0) is NameState.FREE
    assert watch.look(beat("mine", 5), 2.0) is NameState.FREE


def test_what_changes_between_two_looks_lives() -> None:
    watch = RegionNameWatch("mine")
    assert watch.look(beat("other"), 0.0) is NameState.UNDECIDED
    assert watch.look(beat("other"), 1.0) is NameState.UNDECIDED
    assert watch.look(beat("other", 1), 1.5) is NameState.TAKEN
    assert watch.look(beat("other", 1), 1.5 + STANDSTILL_S - 0.1) is NameState.TAKEN
    assert watch.look(beat("other", 1), 1.5 + STANDSTILL_S) is NameState.FREE


def test_what_stands_still_is_dead_whatever_its_clock_says() -> None:
    for at_ms in (0, 1_000_000_000):
        watch = RegionNameWatch("mine")
        assert watch.look(beat("other", at_ms), 0.0) is NameState.UNDECIDED
        assert watch.look(beat("other", at_ms), STANDSTILL_S) is NameState.FREE


def test_of_two_that_come_at_once_one_stays() -> None:
    ours, theirs = RegionNameWatch("ours"), RegionNameWatch("theirs")
    assert ours.look(None, 0.0) is theirs.look(None, 0.0) is NameState.FREE
    # Both write; the second one's heartbeat stands.
    assert ours.look(beat("theirs", 1), 1.0) is NameState.UNDECIDED
    assert theirs.look(beat("theirs", 1), 1.0) is NameState.FREE
    assert ours.look(beat("theirs", 2), 2.0) is NameState.TAKEN


@pytest.fixture
def store() -> ObjectStore:
    return open_store(f"memory://{uuid4().hex}")


def test_a_start_beside_another_cluster_is_refused_and_writes_nothing(store: ObjectStore) -> None:
    clock = SimClock()
    store.put(heartbeat_path("a"), beat("other").to_bytes())

    def sleep(wait_s: float) -> None:
        clock.sleep(wait_s)
        store.put(heartbeat_path("a"), beat("other", clock.wall_ms()).to_bytes())

    with pytest.raises(Conflict, match="'a' runs already, in Ray cluster other"):
        wait_for_free_name(store, "a", "mine", clock=clock, sleep=sleep)
    assert store.list_folders("regions") == ["a"]
    assert RegionStatus.from_bytes(store.get(heartbeat_path("a")), source="a").cluster_id == "other"


def test_after_a_crash_the_name_is_free_within_seconds(store: ObjectStore) -> None:
    clock = SimClock()
    begun_s = clock.now_s
    store.put(heartbeat_path("a"), beat("crashed", clock.wall_ms()).to_bytes())
    wait_for_free_name(store, "a", "crashed", clock=clock, sleep=clock.sleep)
    assert clock.now_s == begun_s, "the same cluster goes on at once"
    wait_for_free_name(store, "a", "mine", clock=clock, sleep=clock.sleep)
    assert clock.now_s - begun_s == pytest.approx(STANDSTILL_S, abs=0.5)
    wait_for_free_name(store, "b", "mine", clock=clock, sleep=clock.sleep)
