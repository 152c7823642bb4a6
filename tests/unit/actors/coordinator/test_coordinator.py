"""What a coordinator tells: how current it is, and what its region holds."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count

import pytest

from actors.coordinator.coordinator import Coordinator
from actors.coordinator.loading.loaded_release import LoadedRelease
from actors.coordinator.loading.loader import ReleaseLoader
from cluster.clock import SYSTEM_CLOCK
from cluster.errors import (
    Conflict,
    Corrupt,
    LogUnreadable,
    Unavailable,
)
from cluster.releases.entries import RELEASE_LOG, Elect, entry_path
from cluster.releases.events import DocumentsStatus
from cluster.store.identity import store_identity
from cluster.store.numbered_log import NumberedLog
from cluster.store.object_store import ObjectStore
from tests.support.store_fixtures import Door
from tests.support.waiting import wait_until
from tests.support.worlds.coordinator_world import propose, published


def elect_other(store: ObjectStore) -> int:
    """Gives another region the lead; at the log's end, wherever the coordinator has it by then:
    it takes the lead back, since the other has no heartbeat.
    """
    log = NumberedLog(store, RELEASE_LOG)
    for position in count(2):
        entry = Elect(epoch=position, commit_id=f"other-{position}", at_ms=0, leader="other")
        with suppress(Conflict):
            store.put_if_absent(log.path(position), entry.to_bytes())
            break
    return position


def test_a_refresh_reads_what_was_there_when_it_was_asked_for(
    coordinator: Coordinator, store: ObjectStore
) -> None:
    for _ in range(3):
        asked_ms = SYSTEM_CLOCK.wall_ms()
        position = elect_other(store)
        pulse = coordinator.refresh()
        assert pulse.freshness.position >= position
        assert pulse.freshness.read_ms >= asked_ms


def test_heartbeats_tell_how_far_the_documents_are(coordinator: Coordinator) -> None:
    told = {"tea": DocumentsStatus(watermark={"a": 3}, documents_digest="x")}
    coordinator.documents(told)

    def said() -> list[dict[str, DocumentsStatus]]:
        regions = coordinator.pulse("p", 0.0, frozenset()).regions
        return [status.documents for status in regions.values()]

    wait_until(lambda: said() == [told])


def test_the_pulse_tells_of_the_store_and_the_regions(
    coordinator: Coordinator, store: ObjectStore
) -> None:
    wait_until(lambda: coordinator.pulse("p", 0.0, frozenset()).store_id != "")
    pulse = coordinator.refresh()
    assert pulse.store_id == store_identity(store)
    assert set(pulse.regions) == {"local"}
    assert pulse.regions["local"].cluster_id == "cluster"
    assert (pulse.last_release, pulse.aborted, pulse.switches) == (0, {}, ())


def test_without_the_store_freshness_stands_still_and_a_refresh_fails_at_once(
    coordinator: Coordinator, door: Door
) -> None:
    door.shut = True
    with pytest.raises(Unavailable):
        coordinator.refresh()
    stood = coordinator.pulse("p", 0.0, frozenset()).freshness
    with pytest.raises(Unavailable, match="cannot be read"):
        coordinator.refresh()
    assert coordinator.pulse("p", 0.0, frozenset()).freshness == stood
    door.shut = False
    wait_until(lambda: coordinator.pulse("p", 0.0, frozenset()).freshness.read_ms > stood.read_ms)
    coordinator.refresh()


def test_an_entry_that_cannot_be_read_is_told_and_nothing_is_changed(
    coordinator: Coordinator, store: ObjectStore
) -> None:
    path = entry_path(coordinator.log_state().position + 1)
    store.put_if_absent(path, b'{"kind": "of a version to come"}')
    with pytest.raises(Unavailable, match=path):
        coordinator.refresh()
    assert path in (coordinator.status().log_trouble or "")
    with pytest.raises(LogUnreadable, match=path):
        propose(coordinator, published(store), "elsewhere", auto_commit=False)
    store.put(path, Elect(epoch=1, commit_id="void", at_ms=0, leader="other").to_bytes())
    coordinator.refresh()
    assert coordinator.status().log_trouble is None
    assert coordinator.log_state().leader == "local"


def test_many_refreshes_share_readings(coordinator: Coordinator) -> None:
    def refresh(_: int) -> int:
        asked_ms = SYSTEM_CLOCK.wall_ms()
        return coordinator.refresh().freshness.read_ms - asked_ms

    with ThreadPoolExecutor(32) as callers:
        ages_ms = list(callers.map(refresh, range(500)))
    assert min(ages_ms) >= 0


def test_a_release_is_loaded_and_served(coordinator: Coordinator, store: ObjectStore) -> None:
    number = propose(coordinator, published(store), "local")
    wait_until(lambda: coordinator.status().healthy)
    assert coordinator.status().release == number
    assert coordinator.view(None, 0.0).releases.keys() == {number}


def test_why_a_release_cannot_be_loaded_is_told(
    coordinator: Coordinator, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Exception] = [RuntimeError("no worker"), Unavailable("the store timed out")]

    def fail(self: ReleaseLoader, planned: LoadedRelease, give_up: threading.Event) -> None:
        raise errors[0]

    def told() -> str:
        lines = {line.region: line for line in coordinator.status().regions}
        return lines["local"].failed.get("1", "")

    monkeypatch.setattr(ReleaseLoader, "load", fail)
    propose(coordinator, published(store), "local")
    wait_until(lambda: told().startswith("RuntimeError: no worker"))
    # What may pass is tried again, and what does not ends it.
    errors.pop(0)
    wait_until(lambda: told() == "the store timed out")
    wait_until(lambda: coordinator.failures(1) == {"local": "the store timed out"})
    assert coordinator.log_state().open_proposal() is not None
    errors[0] = Corrupt("bad bytes")
    wait_until(lambda: coordinator.log_state().open_proposal() is None)
    assert coordinator.log_state().aborted(1) == {1: "bad bytes"}
