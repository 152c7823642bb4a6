"""What the coordinator is told counts at once, also while the store hangs."""

from __future__ import annotations

import threading

import pytest

from actors.coordinator.canary_judge import CanaryJudge
from actors.coordinator.coordinator import Coordinator
from actors.coordinator.loading.loaded_release import LoadedRelease
from actors.coordinator.loading.loader import ReleaseLoader
from cluster.canary.counts import OutcomeReport, Sides
from cluster.releases.requests import SetShare
from cluster.store.object_store import ObjectStore
from tests.support.store_fixtures import Door
from tests.support.waiting import wait_until
from tests.support.worlds.coordinator_world import WAIT_S, propose, published


def test_a_canary_at_fault_loses_its_share_while_the_store_hangs(
    coordinator: Coordinator, store: ObjectStore, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    propose(coordinator, published(store), "local")
    wait_until(lambda: coordinator.status().healthy)
    canary = propose(coordinator, published(store), "local", auto_commit=False)
    wait_until(lambda: canary in coordinator.view(None, 0.0).releases)
    coordinator.request(SetShare(release=canary, percent=50))
    assert coordinator.view(None, 0.0).canary is not None
    monkeypatch.setattr(CanaryJudge, "take", lambda *_: "too slow")
    door.open.clear()
    assert door.knocked.wait(WAIT_S)
    coordinator.report(
        OutcomeReport(reporter="gateway", release=canary, ended=Sides(), waiting=Sides())
    )
    assert coordinator.view(None, 0.0).canary is None
    assert coordinator.log_state().proposals[canary].reason is None
    door.open.set()
    wait_until(lambda: coordinator.log_state().proposals[canary].reason is not None)


def test_a_release_that_is_prepared_may_be_asked_for_while_the_store_hangs(
    coordinator: Coordinator, store: ObjectStore, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, may_end, real = threading.Event(), threading.Event(), ReleaseLoader.load

    def slowly(
        self: ReleaseLoader, planned: LoadedRelease, give_up: threading.Event
    ) -> LoadedRelease:
        loaded = real(self, planned, give_up)
        loading.set()
        assert may_end.wait(WAIT_S)
        return loaded

    monkeypatch.setattr(ReleaseLoader, "load", slowly)
    number = propose(coordinator, published(store), "local", auto_commit=False)
    assert loading.wait(WAIT_S)
    door.open.clear()
    assert door.knocked.wait(WAIT_S)
    may_end.set()
    wait_until(lambda: number in coordinator.view(None, 0.0).releases)
    assert not door.open.is_set()
