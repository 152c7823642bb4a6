"""The coordinator's thread: how current it is, and that nobody waits for it in vain."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import cast

import pytest

from actors.coordinator.coordinator import Coordinator
from actors.coordinator.loaded_release import LoadedRelease
from actors.coordinator.loader import ReleaseLoader
from cluster.artifacts.claims import CLAIMS, Claim
from cluster.catalog.manifests import ManifestRef
from cluster.clock import SYSTEM_CLOCK
from cluster.errors import (
    Conflict,
    Corrupt,
    InvalidArgument,
    LogUnreadable,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from cluster.releases.entries import RELEASE_LOG, Elect, ReleaseContents, entry_path
from cluster.releases.events import Append
from cluster.releases.rollout import Rollout
from cluster.releases.settings import RolloutPolicy
from cluster.store.identity import store_identity
from cluster.store.numbered_log import NumberedLog
from cluster.store.object_store import ObjectStore
from tests.support.store_fixtures import Door
from tests.support.waiting import wait_until
from tests.support.worlds.coordinator_world import SETTINGS, WAIT_S, Deployer, published


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
        coordinator.propose(published(store), ("elsewhere",), False, None)
    store.put(path, Elect(epoch=1, commit_id="void", at_ms=0, leader="other").to_bytes())
    coordinator.refresh()
    assert coordinator.status().log_trouble is None
    assert coordinator.log_state().leader == "local"


def test_a_store_that_hangs_is_given_up(
    coordinator: Coordinator, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.coordinator.coordinator._REFRESH_TIMEOUT_S", 0.05)
    door.open.clear()
    with pytest.raises(Unavailable, match="not read in time"):
        coordinator.refresh()
    monkeypatch.setattr("actors.coordinator.coordinator._REFRESH_TIMEOUT_S", WAIT_S)
    door.open.set()
    coordinator.refresh()


def test_what_was_given_up_is_not_done_later(
    coordinator: Coordinator, door: Door, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = coordinator.propose(published(store), ("elsewhere",), False, None)
    before = coordinator.log_state()
    door.open.clear()
    assert door.knocked.wait(WAIT_S)
    with monkeypatch.context() as patch:
        patch.setattr("actors.coordinator.coordinator._REQUEST_TIMEOUT_S", 0.1)
        with pytest.raises(Unavailable, match="no change"):
            coordinator.abort(number, "not heard in time")
    door.open.set()
    coordinator.refresh()
    # What came later is served later.
    with pytest.raises(NotFound):
        coordinator.abort(number + 1, "there is none")
    assert coordinator.log_state() == before


def test_what_is_begun_and_not_finished_in_time_may_be_done(
    coordinator: Coordinator, door: Door, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = coordinator.propose(published(store), ("elsewhere",), False, None)
    deciding, may_end, real = threading.Event(), threading.Event(), Rollout.abort

    def slowly(self: Rollout, number: int, *, reason: str, now_ms: int, commit_id: str) -> Append:
        deciding.set()
        assert may_end.wait(WAIT_S)
        return real(self, number, reason=reason, now_ms=now_ms, commit_id=commit_id)

    monkeypatch.setattr(Rollout, "abort", slowly)
    monkeypatch.setattr("actors.coordinator.coordinator._REQUEST_TIMEOUT_S", 2.0)
    with ThreadPoolExecutor(1) as person:
        asked = person.submit(coordinator.abort, number, "slow")
        assert deciding.wait(WAIT_S)
        with pytest.raises(OutcomeUnknown):
            asked.result(WAIT_S)
    may_end.set()
    wait_until(lambda: coordinator.log_state().open_proposal() is None)


def test_a_trouble_that_stays_is_logged_once(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = threading.Semaphore(0)

    def fail(store: ObjectStore) -> str:
        asked.release()
        raise Unavailable("no id today")

    monkeypatch.setattr("actors.coordinator.coordinator.store_identity", fail)
    opened = cast(ObjectStore, door)
    coordinator = Coordinator(SETTINGS, "local", opened, tmp_path, Deployer(), "cluster")
    for _ in range(4):
        assert asked.acquire(timeout=WAIT_S)
        coordinator.nudge()
    coordinator.stop()
    assert caplog.text.count("no id today") == 1


def test_many_refreshes_share_readings(coordinator: Coordinator) -> None:
    def refresh(_: int) -> int:
        asked_ms = SYSTEM_CLOCK.wall_ms()
        return coordinator.refresh().freshness.read_ms - asked_ms

    with ThreadPoolExecutor(32) as callers:
        ages_ms = list(callers.map(refresh, range(500)))
    assert min(ages_ms) >= 0


# Bad input changes nothing.


def test_what_is_not_there_is_not_proposed(coordinator: Coordinator, store: ObjectStore) -> None:
    contents = published(store)
    missing = ManifestRef(version="2", sha256="0" * 64)
    before = coordinator.log_state()
    with pytest.raises(InvalidArgument, match="there is no region 'mars'"):
        coordinator.propose(contents, ("local", "mars"), False, None)
    with pytest.raises(NotFound):
        coordinator.propose(ReleaseContents(indexes={"c": missing}), ("local",), False, None)
    path = "indexes/c/1.json"
    store.put(path, store.get(path).replace(b'"num_passages":1', b'"num_passages":2'))
    with pytest.raises(Corrupt, match="does not hold the bytes that were published"):
        coordinator.propose(contents, ("local",), False, None)
    assert coordinator.log_state() == before


def test_what_is_proposed_or_gone_back_to_is_kept_from_the_collector(
    coordinator: Coordinator, store: ObjectStore
) -> None:
    number = coordinator.propose(published(store), ("elsewhere",), False, None)
    assert claimed(store) == [("indexes/c/1.json",)]
    coordinator.abort(number, "only a test")
    with pytest.raises(Conflict, match="is aborted"):
        coordinator.rollback(number)
    assert claimed(store) == [("indexes/c/1.json",)] * 2


def claimed(store: ObjectStore) -> list[tuple[str, ...]]:
    paths = [f"{CLAIMS}/{name}" for name in store.list_names(CLAIMS)]
    return [Claim.from_bytes(store.get(path), source=path).paths for path in paths]


def test_a_release_is_loaded_and_served(coordinator: Coordinator, store: ObjectStore) -> None:
    number = coordinator.propose(published(store), ("local",), True, None)
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
    coordinator.propose(published(store), ("local",), True, None)
    wait_until(lambda: told().startswith("RuntimeError: no worker"))
    # What may pass is tried again, and what does not ends it.
    errors.pop(0)
    wait_until(lambda: told() == "the store timed out")
    wait_until(lambda: coordinator.failures(1) == {"local": "the store timed out"})
    assert coordinator.log_state().open_proposal() is not None
    errors[0] = Corrupt("bad bytes")
    wait_until(lambda: coordinator.log_state().open_proposal() is None)
    assert coordinator.log_state().aborted(1) == {1: "bad bytes"}


def test_an_aborted_release_stays_aborted(coordinator: Coordinator, store: ObjectStore) -> None:
    # For a region that is not here, so that nothing is loaded.
    number = coordinator.propose(published(store), ("elsewhere",), False, None)
    coordinator.abort(number, "only a test")
    state = coordinator.log_state()
    for request in (
        coordinator.commit,
        coordinator.rollback,
        partial(coordinator.canary, percent=5),
    ):
        with pytest.raises(Conflict, match="release 1 is aborted, not"):
            request(number)
    assert coordinator.log_state() == state
    assert coordinator.refresh().aborted == {number: "only a test"}


def test_the_settings_policy_counts_where_none_is_given(
    coordinator: Coordinator, store: ObjectStore
) -> None:
    contents = published(store)
    number = coordinator.propose(contents, ("elsewhere",), False, None)
    assert coordinator.log_state().proposals[number].wait_for == "all"
    coordinator.abort(number, "only a test")
    policy = RolloutPolicy(wait_for="quorum", prepare_timeout_s=7.0)
    number = coordinator.propose(contents, ("elsewhere",), False, policy)
    proposal = coordinator.log_state().proposals[number]
    assert proposal.wait_for == "quorum"
    assert proposal.prepare_by_ms - proposal.proposed_at_ms == 7_000
    with pytest.raises(InvalidArgument, match="no target of the release: mars"):
        coordinator.propose(contents, ("elsewhere",), False, RolloutPolicy(wait_for=("mars",)))
