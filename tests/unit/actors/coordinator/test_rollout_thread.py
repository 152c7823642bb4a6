"""The thread that drives the rollout: nobody waits for it in vain, and it says whether it made a
change.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest

from actors.coordinator.published_state import PublishedState
from actors.coordinator.rollout_thread import RolloutThread
from cluster.clock import SYSTEM_CLOCK
from cluster.errors import NotFound, OutcomeUnknown, Unavailable
from cluster.releases.entries import LogState
from cluster.releases.events import Append
from cluster.releases.requests import AbortRelease, ProposeRelease, ReleaseRequest
from cluster.releases.rollout import Rollout
from cluster.store.object_store import ObjectStore
from tests.support.fakes import contents
from tests.support.regions.one_region import Region
from tests.support.store_fixtures import Door
from tests.support.waiting import wait_until
from tests.support.worlds.coordinator_world import WAIT_S

PROPOSE = ProposeRelease(contents=contents(), targets=("elsewhere",), auto_commit=False)


class Driven:
    """A rollout thread whose host loads nothing."""

    def __init__(self, store: ObjectStore) -> None:
        driver = Region(store, SYSTEM_CLOCK, "local").driver
        self.published = PublishedState(driver, dict, SYSTEM_CLOCK)
        self.thread = RolloutThread(driver, self.published, store, SYSTEM_CLOCK)

    @property
    def state(self) -> LogState:
        return self.published.state

    def abort(self, number: int, timeout_s: float = WAIT_S) -> LogState:
        return self.thread.request(AbortRelease(release=number, reason="why"), timeout_s)


@pytest.fixture
def driven(door: Door) -> Iterator[Driven]:
    driven = Driven(cast(ObjectStore, door))
    driven.thread.start()
    wait_until(lambda: driven.state.leader == "local")
    yield driven
    driven.thread.stop()
    door.open.set()


@pytest.fixture
def opened(driven: Driven) -> int:
    """An open release."""
    return driven.thread.request(PROPOSE, WAIT_S).next_release - 1


def test_a_store_that_hangs_is_given_up(driven: Driven, door: Door) -> None:
    door.open.clear()
    with pytest.raises(Unavailable, match="not read in time"):
        driven.thread.refresh(timeout_s=0.05)
    door.open.set()
    driven.thread.refresh(WAIT_S)


def test_what_was_given_up_is_not_done_later(driven: Driven, door: Door, opened: int) -> None:
    before = driven.state
    door.open.clear()
    assert door.knocked.wait(WAIT_S)
    with pytest.raises(Unavailable, match="no change"):
        driven.abort(opened, timeout_s=0.1)
    door.open.set()
    driven.thread.refresh(WAIT_S)
    # What came later is served later.
    with pytest.raises(NotFound):
        driven.abort(opened + 1)
    assert driven.state == before


def test_what_is_begun_and_not_finished_in_time_may_be_done(
    driven: Driven, opened: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    deciding, may_end, real = threading.Event(), threading.Event(), Rollout.decide

    def slowly(self: Rollout, request: ReleaseRequest, *, now_ms: int, commit_id: str) -> Append:
        deciding.set()
        assert may_end.wait(WAIT_S)
        return real(self, request, now_ms=now_ms, commit_id=commit_id)

    monkeypatch.setattr(Rollout, "decide", slowly)
    with ThreadPoolExecutor(1) as person:
        asked = person.submit(driven.abort, opened, 2.0)
        assert deciding.wait(WAIT_S)
        with pytest.raises(OutcomeUnknown):
            asked.result(WAIT_S)
    may_end.set()
    wait_until(lambda: driven.state.open_proposal() is None)


def test_so_many_requests_wait_and_no_more(store: ObjectStore) -> None:
    driven = Driven(store)
    for told in (*["no change"] * 256, "too many requests"):
        with pytest.raises(Unavailable, match=told):
            driven.abort(1, timeout_s=0.0)


def test_a_trouble_that_stays_is_logged_once(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = threading.Semaphore(0)

    def fail(store: ObjectStore) -> str:
        asked.release()
        raise Unavailable("no id today")

    monkeypatch.setattr("actors.coordinator.rollout_thread.store_identity", fail)
    thread = Driven(cast(ObjectStore, door)).thread
    thread.start()
    for _ in range(4):
        assert asked.acquire(timeout=WAIT_S)
        thread.nudge()
    thread.stop()
    assert caplog.text.count("no id today") == 1
