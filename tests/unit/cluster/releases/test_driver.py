"""The driver over a store: one election and no more, replies that are lost, the end of a leftover.

How several drivers get along is for the simulation to show.
"""

from __future__ import annotations

from typing import cast
from uuid import uuid4

import pytest

from cluster.errors import Conflict, Fenced, Unavailable
from cluster.releases.entries import ReleaseStatus
from cluster.releases.events import Prepared, PrepareFailed
from cluster.store.object_store import ObjectStore, open_store
from tests.support.fakes import SimClock
from tests.support.regions.one_region import Region
from tests.support.store_fixtures import Door


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
    region.step()
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
    region.driver.observe(PrepareFailed(release=number, reason="disk full", retryable=False))
    region.step()
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
    second.step()
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


class Ailing(Door):
    """Takes no entry while it `refuses`, and does nothing after the entry that is the last."""

    refuses = takes_the_last = False

    def put_if_absent(self, path: str, data: bytes) -> None:
        if self.refuses:
            raise Unavailable("the store takes no writes")
        self._store.put_if_absent(path, data)
        self.shut = self.takes_the_last


def test_a_request_that_landed_is_acknowledged_though_nothing_can_be_read_any_more(
    store: ObjectStore, clock: SimClock
) -> None:
    ailing = Ailing(store)
    region = Region(cast(ObjectStore, ailing), clock)
    region.step()
    ailing.takes_the_last = True
    assert region.propose("a") == 1
    with pytest.raises(Unavailable):
        region.step()


def test_a_step_that_failed_is_taken_up_by_the_next_one(
    store: ObjectStore, clock: SimClock
) -> None:
    ailing = Ailing(store)
    region = Region(cast(ObjectStore, ailing), clock)
    ailing.refuses = True
    with pytest.raises(Unavailable):
        region.step()
    assert not region.rollout.leads
    ailing.refuses = False
    region.step()
    assert region.rollout.leads
