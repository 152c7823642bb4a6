"""The driver over a store: one election and no more, replies that are lost, the end of a leftover.

How several drivers get along is for the simulation to show.
"""

from __future__ import annotations

import random
from uuid import uuid4

import pytest

from cluster.coordination import RolloutDriver
from cluster.errors import Conflict, Fenced, OutcomeUnknown, Unavailable
from cluster.numbered_object import NumberedLog
from cluster.object_store import ObjectStore, open_store
from cluster.releases import RELEASE_LOG, Release, ReleaseStatus
from cluster.rollout import Rollout
from cluster.rollout_events import Append, Prepared, PrepareFailed, RegionStatus
from tests.fakes import SimClock, contents, counting_ids


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
        clock: SimClock,
        region: str = "a",
        life: int = 1,
        cluster_id: str = "",
    ) -> None:
        self.clock = clock
        self.host = Host()
        self.rollout = Rollout(region=region)
        self.log = NumberedLog(store, RELEASE_LOG, rng=random.Random(0), sleep=clock.sleep)
        self.driver = RolloutDriver(
            rollout=self.rollout,
            store=store,
            log=self.log,
            host=self.host,
            clock=clock,
            new_id=counting_ids(f"{region}/{life}"),
            cluster_id=cluster_id,
        )

    def step(self) -> None:
        self.driver.step(exchange_heartbeats=True)

    def propose(self, *targets: str) -> int:
        def decide(rollout: Rollout, now_ms: int, commit_id: str) -> Append:
            return rollout.propose(
                contents(), targets=targets, auto_commit=True, now_ms=now_ms, commit_id=commit_id
            )

        return self.driver.request(decide).next_release - 1


@pytest.fixture
def store() -> ObjectStore:
    return open_store(f"memory://{uuid4().hex}")


@pytest.fixture
def clock() -> SimClock:
    return SimClock()


def test_one_election_is_enough(store: ObjectStore, clock: SimClock) -> None:
    region = Region(store, clock)
    for _ in range(5):
        region.step()
    assert region.log.latest() == region.rollout.state.position == 1
    assert region.rollout.leads


def test_a_release_goes_from_proposal_to_commit(store: ObjectStore, clock: SimClock) -> None:
    region = Region(store, clock)
    region.step()
    number = region.propose("a")
    region.step()
    assert region.host.preparing == [number]
    region.driver.observe(Prepared(release=number))
    assert region.rollout.state.proposals[number].status is ReleaseStatus.COMMITTED
    clock.sleep(5.0)
    assert region.rollout.heartbeat(clock.wall_ms()).current == number
    assert region.rollout.state.position == region.log.latest() == 3


def test_one_step_carries_a_proposal_as_far_as_it_can(store: ObjectStore, clock: SimClock) -> None:
    region = Region(store, clock)
    region.step()
    number = region.propose("a", "b", "c")
    region.step()
    clock.sleep(601.0)
    region.driver.observe(PrepareFailed(release=number, reason="disk full"))
    # Two fences and, with nobody left, the abort.
    assert region.rollout.state.proposals[number].status is ReleaseStatus.ABORTED
    assert region.log.latest() == 5
    assert region.host.retired == [number]


def test_two_regions_share_a_log_and_one_leads(store: ObjectStore, clock: SimClock) -> None:
    first, second = Region(store, clock, "a"), Region(store, clock, "b")
    first.step()
    second.step()
    assert (first.rollout.leads, second.rollout.leads) == (True, False)
    number = first.propose("a", "b")
    for region in (first, second):
        region.step()
        region.driver.observe(Prepared(release=number))
        region.step()
    first.step()
    second.step()
    assert first.rollout.state == second.rollout.state
    assert first.rollout.state.proposals[number].status is ReleaseStatus.COMMITTED


def test_a_request_in_another_region_takes_the_lead_there(
    store: ObjectStore, clock: SimClock
) -> None:
    first, second = Region(store, clock, "a"), Region(store, clock, "b")
    first.step()
    second.step()
    number = second.propose("b")
    first.step()
    assert (first.rollout.leads, second.rollout.leads) == (False, True)
    assert not first.rollout.superseded
    assert number == 1
    second.step()
    second.driver.observe(Prepared(release=number))
    for _ in range(20):
        clock.sleep(0.5)
        first.step()
        second.step()
    assert first.rollout.state == second.rollout.state
    assert first.rollout.state.epoch == 2, "nobody takes it back"


def test_a_region_that_is_still_starting_takes_no_lead(store: ObjectStore, clock: SimClock) -> None:
    Region(store, clock, "a").step()
    with pytest.raises(Conflict, match="still starting"):
        Region(store, clock, "b").propose("b")
    assert Region(store, clock, "c").log.latest() == 1


def test_what_a_restarted_coordinator_needs_is_in_the_log(
    store: ObjectStore, clock: SimClock
) -> None:
    first = Region(store, clock)
    first.step()
    number = first.propose("a")
    second = Region(store, clock, life=2)
    second.step()
    assert second.rollout.leads
    assert second.host.preparing == [number]
    second.driver.observe(Prepared(release=number))
    assert second.rollout.state.proposals[number].status is ReleaseStatus.COMMITTED


def test_the_one_that_was_taken_over_ends_and_writes_no_more(
    store: ObjectStore, clock: SimClock
) -> None:
    old, new = Region(store, clock), Region(store, clock, life=2)
    old.step()
    new.step()
    length = new.log.latest()
    with pytest.raises(Conflict, match="another coordinator of region a leads"):
        old.propose("a")
    with pytest.raises(Fenced, match="another coordinator"):
        old.step()
    new.step()
    assert new.log.latest() == length
    assert new.rollout.leads


def test_a_request_that_landed_is_acknowledged_though_nothing_can_be_read_any_more(
    store: ObjectStore, clock: SimClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = Region(store, clock)
    region.step()
    real = NumberedLog.append_at

    def append_and_go_dark(self: NumberedLog, *args: object, **options: object) -> None:
        real(self, *args, **options)  # type: ignore[arg-type]
        monkeypatch.setattr(NumberedLog, "read_after", unreadable)

    def unreadable(self: NumberedLog, n: int) -> None:
        raise Unavailable("the store does not answer")

    monkeypatch.setattr(NumberedLog, "append_at", append_and_go_dark)
    assert region.propose("a") == 1


def test_a_step_that_failed_is_taken_up_by_the_next_one(
    store: ObjectStore, clock: SimClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = Region(store, clock)

    def fail(self: NumberedLog, *args: object, **options: object) -> None:
        raise Unavailable("the store does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(NumberedLog, "append_at", fail)
        with pytest.raises(Unavailable):
            region.step()
    assert not region.rollout.leads
    region.step()
    assert region.rollout.leads


def test_heartbeats_are_told_and_read(store: ObjectStore, clock: SimClock) -> None:
    first, second = Region(store, clock, "a"), Region(store, clock, "b")
    first.step()
    second.step()
    clock.sleep(5.0)
    first.step()
    assert set(first.rollout.heartbeats) == {"a", "b"}
    told = RegionStatus.from_bytes(store.get("regions/b/status.json"), source="b")
    assert told == first.rollout.heartbeats["b"]


# How current a region is.


def test_freshness_is_of_the_last_complete_reading(
    store: ObjectStore, clock: SimClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = Region(store, clock)
    assert region.driver.freshness.read_ms == 0
    region.step()
    assert region.driver.freshness.position == 1
    clock.sleep(3.0)
    real = NumberedLog.read_after

    def slowly(self: NumberedLog, n: int) -> list[tuple[int, bytes]]:
        found = real(self, n)
        clock.sleep(2.0)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(NumberedLog, "read_after", slowly)
        begun_ms = clock.wall_ms()
        region.driver.read()
    assert region.driver.freshness.read_ms == begun_ms, "when it began, not when it ended"

    def fail(self: NumberedLog, n: int) -> None:
        raise Unavailable("the store does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(NumberedLog, "read_after", fail)
        clock.sleep(10.0)
        with pytest.raises(Unavailable):
            region.driver.read()
    assert region.driver.freshness.read_ms == begun_ms


# Heartbeats.


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


def test_a_region_that_cannot_write_still_prepares_what_is_committed(
    store: ObjectStore, clock: SimClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, follower = Region(store, clock, "a"), Region(store, clock, "b")
    leader.step()
    follower.step()
    clock.sleep(2.0)
    number = leader.propose("a", "b")

    def fail(path: str, data: bytes) -> None:
        raise OutcomeUnknown("the store does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(store, "put", fail)
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
        log=region.log,
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
        with pytest.raises(Conflict, match="runs already, in Ray cluster one"):
            second.step()
    assert region_files(store) == before
    for _ in range(10):
        clock.sleep(0.5)
        first.step()
        with pytest.raises(Conflict):
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
