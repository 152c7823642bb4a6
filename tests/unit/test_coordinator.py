"""The coordinator's thread: how current it is, and that nobody waits for it in vain."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import cast
from uuid import uuid4

import pytest

from actors.coordinator import Coordinator
from cluster.catalog import Catalog
from cluster.config import GeneratorSettings, RegionSettings, RolloutPolicy, Settings
from cluster.errors import Conflict, Corrupt, InvalidArgument, NotFound, Unavailable
from cluster.manifests import IndexManifest, IndexParameters, ManifestRef, ModelManifest
from cluster.numbered_object import NumberedLog
from cluster.object_store import ObjectStore, open_store
from cluster.releases import RELEASE_LOG, Elect, ReleaseContents
from cluster.store_identity import store_identity

WAIT_S = 30.0
SETTINGS = Settings(regions={"local": RegionSettings(), "elsewhere": RegionSettings()})


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
    coordinator = Coordinator(SETTINGS, "local", opened, tmp_path, Deployer(), "cluster")
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
        asked_ms = now_ms()
        position = elect_other(store)
        pulse = coordinator.refresh()
        assert pulse.freshness.position >= position
        assert pulse.freshness.read_ms >= asked_ms


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


# Bad input changes nothing.


def published(store: ObjectStore) -> ReleaseContents:
    manifest = IndexManifest(
        corpus="c",
        version="1",
        corpus_position=1,
        dimension=4,
        parameters=IndexParameters(),
        embedder_fingerprint=None,
        metadata_schema={},
        num_documents=1,
        num_passages=1,
        shards=(),
        recall_at_10=1.0,
        built_at_ms=0,
    )
    _, ref = Catalog(store).publish_index(manifest)
    return ReleaseContents(indexes={"c": ref})


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


def test_an_aborted_release_stays_aborted(coordinator: Coordinator, store: ObjectStore) -> None:
    # For a region that is not here, so that nothing is loaded.
    number = coordinator.propose(published(store), ("elsewhere",), False, None)
    state = coordinator.abort(number, "only a test")
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
