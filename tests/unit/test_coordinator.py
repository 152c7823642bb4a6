"""The coordinator's thread: how current it is, and that nobody waits for it in vain."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast
from uuid import uuid4

import pytest

from actors.coordinator import Coordinator
from cluster.config import GeneratorSettings, Settings
from cluster.errors import Unavailable
from cluster.manifests import ModelManifest
from cluster.numbered_object import NumberedLog
from cluster.object_store import ObjectStore, open_store
from cluster.releases import RELEASE_LOG, Elect
from cluster.store_identity import store_identity

WAIT_S = 30.0


class Deployer:
    def deploy(self, model: ModelManifest, application: str, settings: GeneratorSettings) -> None:
        raise AssertionError("there is no release")

    def delete(self, application: str) -> None:
        raise AssertionError("there is no release")


class Door:
    """The store, which may be shut (it fails), or held (it does not answer)."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.shut = False
        self.open = threading.Event()
        self.open.set()

    def __getattr__(self, name: str) -> Callable[..., object]:
        operation = getattr(self._store, name)

        def through(*args: object, **options: object) -> object:
            assert self.open.wait(WAIT_S)
            if self.shut:
                raise Unavailable("the door is shut")
            return operation(*args, **options)

        return through


@pytest.fixture
def store() -> ObjectStore:
    return open_store(f"memory://{uuid4().hex}")


@pytest.fixture
def door(store: ObjectStore) -> Door:
    return Door(store)


@pytest.fixture
def coordinator(door: Door, tmp_path: Path) -> Iterator[Coordinator]:
    opened = cast(ObjectStore, door)
    coordinator = Coordinator(Settings(), "local", opened, tmp_path, Deployer(), "cluster")
    wait_until(lambda: coordinator.log_state().leader == "local")
    yield coordinator
    coordinator.stop()
    door.open.set()


def wait_until(predicate: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    pause = threading.Event()
    while not predicate():
        assert time.monotonic() < deadline_s
        pause.wait(0.01)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def test_a_refresh_reads_what_was_there_when_it_was_asked_for(
    coordinator: Coordinator, store: ObjectStore
) -> None:
    for position in range(2, 5):
        asked_ms = now_ms()
        entry = Elect(epoch=position, commit_id=f"other-{position}", at_ms=0, leader="other")
        store.put_if_absent(NumberedLog(store, RELEASE_LOG).path(position), entry.to_bytes())
        pulse = coordinator.refresh()
        assert pulse.freshness.position >= position
        assert pulse.freshness.read_ms >= asked_ms
        if coordinator.log_state().position > position:
            break  # it has taken the lead back, since the other has no heartbeat


def test_the_pulse_tells_of_the_store_and_the_regions(
    coordinator: Coordinator, store: ObjectStore
) -> None:
    wait_until(lambda: coordinator.pulse().store_id != "")
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
    stood = coordinator.pulse().freshness
    began_s = time.monotonic()
    with pytest.raises(Unavailable, match="cannot be read"):
        coordinator.refresh()
    assert time.monotonic() - began_s < 1.5
    assert coordinator.pulse().freshness == stood
    door.shut = False
    wait_until(lambda: coordinator.pulse().freshness.read_ms > stood.read_ms)
    coordinator.refresh()


def test_a_store_that_hangs_is_given_up_after_two_seconds(
    coordinator: Coordinator, door: Door
) -> None:
    door.open.clear()
    began_s = time.monotonic()
    with pytest.raises(Unavailable, match="not read in time"):
        coordinator.refresh()
    assert 1.5 < time.monotonic() - began_s < 6.0
    door.open.set()
    coordinator.refresh()


def test_many_refreshes_share_readings(coordinator: Coordinator) -> None:
    def refresh(_: int) -> int:
        asked_ms = now_ms()
        return coordinator.refresh().freshness.read_ms - asked_ms

    with ThreadPoolExecutor(32) as callers:
        ages_ms = list(callers.map(refresh, range(500)))
    assert min(ages_ms) >= 0
