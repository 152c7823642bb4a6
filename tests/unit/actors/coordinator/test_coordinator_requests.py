"""What people ask a coordinator for: it is done, or nothing is, and they are told which."""

from __future__ import annotations

import pytest

from actors.coordinator.coordinator import Coordinator
from cluster.artifacts.claims import CLAIMS, Claim
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import ManifestRef
from cluster.errors import (
    Conflict,
    Corrupt,
    InvalidArgument,
    NotFound,
)
from cluster.releases.entries import ReleaseContents
from cluster.releases.requests import (
    AbortRelease,
    CommitRelease,
    RollBackTo,
    SetShare,
)
from cluster.releases.settings import RolloutPolicy
from cluster.store.object_store import ObjectStore
from tests.support.worlds.coordinator_world import propose, published


def test_what_is_not_there_is_not_proposed(coordinator: Coordinator, store: ObjectStore) -> None:
    contents = published(store)
    missing = ManifestRef(version="2", sha256="0" * 64)
    before = coordinator.log_state()
    with pytest.raises(InvalidArgument, match="there is no region 'mars'"):
        propose(coordinator, contents, "local", "mars", auto_commit=False)
    with pytest.raises(NotFound):
        propose(coordinator, ReleaseContents(indexes={"c": missing}), "local", auto_commit=False)
    path = "indexes/c/1.json"
    store.put(path, store.get(path).replace(b'"num_passages":1', b'"num_passages":2'))
    with pytest.raises(Corrupt, match="does not hold the bytes that were published"):
        propose(coordinator, contents, "local", auto_commit=False)
    assert coordinator.log_state() == before


def test_an_index_of_another_embedder_is_not_proposed(
    coordinator: Coordinator, store: ObjectStore
) -> None:
    catalog = Catalog(store)
    index = catalog.read_index("c", published(store).indexes["c"])
    other = index.model_copy(update={"version": "2", "embedder_fingerprint": "b" * 64})
    contents = ReleaseContents(indexes={"c": catalog.publish_index(other).ref})
    before = coordinator.log_state()
    with pytest.raises(InvalidArgument, match="built with another embedder") as refused:
        propose(coordinator, contents, "elsewhere", auto_commit=False)
    assert refused.value.field == "embedder"
    assert coordinator.log_state() == before
    assert claimed(store) == []


def test_a_proposal_reads_each_manifest_once(
    coordinator: Coordinator, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = published(store)
    read: list[str] = []
    get = store.get

    def noted(path: str) -> bytes:
        read.append(path)
        return get(path)

    monkeypatch.setattr(store, "get", noted)
    # For a region that is not here, so that nothing is loaded.
    propose(coordinator, contents, "elsewhere", auto_commit=False)
    assert read.count("indexes/c/1.json") == 1


def test_what_is_proposed_or_gone_back_to_is_kept_from_the_collector(
    coordinator: Coordinator, store: ObjectStore
) -> None:
    number = propose(coordinator, published(store), "elsewhere", auto_commit=False)
    assert claimed(store) == [("indexes/c/1.json",)]
    coordinator.request(AbortRelease(release=number, reason="only a test"))
    with pytest.raises(Conflict, match="is aborted"):
        coordinator.request(RollBackTo(release=number))
    assert claimed(store) == [("indexes/c/1.json",)] * 2


def claimed(store: ObjectStore) -> list[tuple[str, ...]]:
    paths = [f"{CLAIMS}/{name}" for name in store.list_names(CLAIMS)]
    return [Claim.from_bytes(store.get(path), source=path).paths for path in paths]


def test_an_aborted_release_stays_aborted(coordinator: Coordinator, store: ObjectStore) -> None:
    # For a region that is not here, so that nothing is loaded.
    number = propose(coordinator, published(store), "elsewhere", auto_commit=False)
    coordinator.request(AbortRelease(release=number, reason="only a test"))
    state = coordinator.log_state()
    for request in (
        CommitRelease(release=number),
        RollBackTo(release=number),
        SetShare(release=number, percent=5),
    ):
        with pytest.raises(Conflict, match="release 1 is aborted, not"):
            coordinator.request(request)
    assert coordinator.log_state() == state
    assert coordinator.refresh().aborted == {number: "only a test"}


def test_the_settings_policy_counts_where_none_is_given(
    coordinator: Coordinator, store: ObjectStore
) -> None:
    contents = published(store)
    number = propose(coordinator, contents, "elsewhere", auto_commit=False)
    assert coordinator.log_state().proposals[number].wait_for == "all"
    coordinator.request(AbortRelease(release=number, reason="only a test"))
    policy = RolloutPolicy(wait_for="quorum", prepare_timeout_s=7.0)
    number = propose(coordinator, contents, "elsewhere", auto_commit=False, policy=policy)
    proposal = coordinator.log_state().proposals[number]
    assert proposal.wait_for == "quorum"
    assert proposal.prepare_by_ms - proposal.proposed_at_ms == 7_000
    policy = RolloutPolicy(wait_for=("mars",))
    with pytest.raises(InvalidArgument, match="no target of the release: mars"):
        propose(coordinator, contents, "elsewhere", policy=policy)
