"""What a release is made of in a region: its own corpora, and a model where it generates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from actors.coordinator.loading import loader as release_loader
from actors.coordinator.loading.loaded_release import LoadedRelease
from actors.coordinator.loading.loader import ReleaseLoader
from actors.coordinator.loading.replica_counts import ReplicaCounts
from actors.runtime import names, wiring
from actors.shards.replica import ReplicaStatus
from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.cache import ArtifactCache
from cluster.artifacts.files import ArtifactFile
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import IndexManifest, ModelKind, ModelManifest, ShardArtifact
from cluster.catalog.model_settings import GeneratorSettings
from cluster.config import Settings
from cluster.errors import InvalidArgument
from cluster.releases.entries import Release, ReleaseContents
from cluster.store.local_store import LocalStore
from tests.support.node_cache import node_cache
from tests.support.values.manifests import index_manifest

SETTINGS: dict[str, Any] = {
    "regions": {"eu": {}, "us": {"generates": False}, "asia": {}},
    "corpora": {"patients": {"regions": ["eu"]}, "open": {}},
}


class Deployer:
    def __init__(self) -> None:
        self.running: list[str] = []

    def start(
        self,
        model: ModelManifest,
        application: str,
        settings: GeneratorSettings,
        give_up: Event,
    ) -> None:
        self.running.append(application)

    def wait_until_running(
        self, model: ModelManifest, application: str, give_up: Event
    ) -> None: ...

    def delete(self, application: str) -> None:
        self.running.remove(application)

    def applications(self) -> set[str]:
        return set(self.running)


class Plans:
    """Plans a release with two corpora and a generator, for any region."""

    def __init__(self, folder: Path) -> None:
        self.store = LocalStore(folder)
        self.deployer = Deployer()
        self.folder = folder
        catalog, artifacts = Catalog(self.store), Artifacts(self.store)
        refs = {name: catalog.publish_index(index(name)).ref for name in ("patients", "open")}
        generator = catalog.publish_model(model(artifacts)).ref
        self.contents = ReleaseContents(indexes=refs, generator=generator)

    def loader(self, region: str, corpora: dict[str, Any] | None = None) -> ReleaseLoader:
        settings = Settings.model_validate(
            SETTINGS if corpora is None else SETTINGS | {"corpora": corpora}
        )
        self.counts = ReplicaCounts(settings, self.store, region)
        cache = node_cache(self.store, self.folder)
        return ReleaseLoader(
            settings, region, Catalog(self.store), cache, self.deployer, self.counts
        )

    def plan(self, region: str, corpora: dict[str, Any] | None = None) -> LoadedRelease:
        return self.loader(region, corpora).plan(Release(number=3, contents=self.contents))


@pytest.fixture
def plans(tmp_path: Path) -> Plans:
    return Plans(tmp_path)


def index(corpus: str) -> IndexManifest:
    return index_manifest(
        corpus=corpus,
        version=f"{corpus}-1",
    )


def model(artifacts: Artifacts) -> ModelManifest:
    files = []
    for path in ("model.safetensors", "tokenizer.json"):
        sha256, size_bytes = artifacts.put_bytes(path.encode())
        files.append(ArtifactFile(path=path, sha256=sha256, size_bytes=size_bytes))
    return ModelManifest(
        kind=ModelKind.GENERATOR,
        name="small",
        version="0123456789abcdef",
        fingerprint="b" * 64,
        files=tuple(files),
    )


def test_a_region_has_the_corpora_that_may_be_there(plans: Plans) -> None:
    eu, us = plans.plan("eu"), plans.plan("us")
    assert eu.view.corpora.keys() == eu.indexes.keys() == {"patients", "open"}
    assert eu.view.elsewhere == frozenset()
    assert us.view.corpora.keys() == us.indexes.keys() == {"open"}
    assert us.view.elsewhere == {"patients"}


def test_a_corpus_that_is_elsewhere_is_told_from_an_unknown_one(plans: Plans) -> None:
    us = plans.plan("us").view
    assert us.corpus("open").corpus == "open"
    with pytest.raises(InvalidArgument, match="'patients' is not kept in this region"):
        us.corpus("patients")
    with pytest.raises(InvalidArgument, match="there is no corpus 'x'; there is: open, patients"):
        us.corpus("x")
    # The same in all regions: which corpora a release has does not depend on where one asks.
    with pytest.raises(InvalidArgument, match="name one of the corpora: open, patients"):
        us.corpus(None)


def test_a_region_may_have_no_corpus_at_all(plans: Plans) -> None:
    bound = {"patients": {"regions": ["eu"]}, "open": {"regions": ["asia"]}}
    us = plans.plan("us", bound)
    assert not us.view.corpora
    assert us.view.elsewhere == {"patients", "open"}
    plans.loader("us", bound).load(us, Event())


def test_a_model_runs_only_where_the_region_generates(plans: Plans) -> None:
    asia, us = plans.plan("asia"), plans.plan("us")
    assert asia.generator is not None
    assert asia.view.generator is not None
    assert asia.view.generator.application == "generator-0123456789abcdef"
    assert us.generator is None
    assert us.view.generator is not None
    assert us.view.generator.application is None
    # Prompts are counted and cut here all the same.
    assert [file.path for file in us.view.generator.tokenizer_files] == ["tokenizer.json"]
    assert us.view.generator.model == "small"


class Replicas:
    """Stands for Ray's actors: which ones there are, and what they were told to unload."""

    def __init__(self) -> None:
        self.living: set[str] = set()
        self.unloaded: list[tuple[str, str]] = []
        self.held: frozenset[str] = frozenset()
        """The index versions that each holds."""

    def actor(self, name: str, shard: int, node: str, cache: ArtifactCache) -> SimpleNamespace:
        self.living.add(name)

        def unload(version: str) -> None:
            self.unloaded.append((name, version))

        def load(_: IndexManifest) -> None: ...

        return SimpleNamespace(
            load=SimpleNamespace(remote=load), unload=SimpleNamespace(remote=unload)
        )

    def live_nodes(self) -> dict[str, str]:
        return {"node": "10.0.0.1"}

    def existing_actors(self) -> list[str]:
        return sorted(self.living)

    def statuses(self, handles: Mapping[str, object]) -> dict[str, ReplicaStatus]:
        status = ReplicaStatus(
            index_versions=self.held,
            pid=1,
            waiting=0,
            busy_s=0.0,
            node=next(iter(self.live_nodes())),
        )
        return dict.fromkeys(handles.keys() & self.living, status)


@pytest.fixture
def replicas(monkeypatch: pytest.MonkeyPatch) -> Replicas:
    replicas = Replicas()
    monkeypatch.setattr(release_loader, "replica_actor", replicas.actor)
    monkeypatch.setattr(wiring, "kill", replicas.living.discard)
    monkeypatch.setattr(wiring, "live_nodes", replicas.live_nodes)
    monkeypatch.setattr(wiring, "existing_actors", replicas.existing_actors)
    monkeypatch.setattr(wiring, "statuses", replicas.statuses)
    monkeypatch.setattr(release_loader, "_wait_for", lambda *_: None)
    return replicas


@pytest.mark.parametrize(("goes", "stays"), [(0, 1), (1, 0)])
def test_replicas_that_were_added_live_as_long_as_a_release_needs_them(
    plans: Plans, replicas: Replicas, goes: int, stays: int
) -> None:
    """Whichever of two releases goes: the one loaded before there were more replicas, or after."""
    catalog, loader = Catalog(plans.store), plans.loader("eu")
    releases = []
    for number in (1, 2):
        shard = ShardArtifact(shard=0, num_rows=1, files=(), recall_at_10=1.0)
        made = index("open").model_copy(update={"version": f"open-{number}0", "shards": (shard,)})
        contents = ReleaseContents(indexes={"open": catalog.publish_index(made).ref})
        releases.append(
            loader.load(loader.plan(Release(number=number, contents=contents)), Event())
        )
        plans.counts.ask_for("open", 3)
    loaded = [len(release.view.corpora["open"].shards[0]) for release in releases]
    assert loaded == [2, 3]
    three = {names.replica("open", 0, number) for number in range(3)}
    loader.retire(releases[goes], [releases[stays]])
    assert replicas.living == three
    version = releases[goes].indexes["open"].version
    assert {unloaded for unloaded, _ in replicas.unloaded} == three
    assert {gone for _, gone in replicas.unloaded} == {version}
    loader.retire(releases[stays], [])
    assert replicas.living == set()


def test_what_an_earlier_coordinator_left_is_unloaded(plans: Plans, replicas: Replicas) -> None:
    loader = plans.loader("eu")
    shard = ShardArtifact(shard=0, num_rows=1, files=(), recall_at_10=1.0)
    made = index("open").model_copy(update={"version": "open-2", "shards": (shard,)})
    contents = ReleaseContents(
        indexes={"open": Catalog(plans.store).publish_index(made).ref},
        generator=plans.contents.generator,
    )
    kept = loader.load(loader.plan(Release(number=2, contents=contents)), Event())
    ours = {names.replica("open", 0, number) for number in range(2)}
    others = {names.COORDINATOR, names.FRONT}
    replicas.living |= others | {"replica/gone/0/0", "replica/open/1/0", "embedder/0123/0"}
    replicas.held = frozenset({"open-2", "open-1"})
    plans.deployer.running.append("generator-of-before")
    loader.mend([kept])
    loader.retire_strays([kept])
    assert replicas.living == ours | others
    assert replicas.unloaded == [(name, "open-1") for name in sorted(ours)]
    assert plans.deployer.running == ["generator-0123456789abcdef"]


def test_no_model_is_started_or_ended_where_none_runs(plans: Plans) -> None:
    bound = {"patients": {"regions": ["eu"]}, "open": {"regions": ["eu"]}}
    for region in ("us", "asia"):
        loader, planned = plans.loader(region, bound), plans.plan(region, bound)
        loader.load(planned, Event())
        assert plans.deployer.running == ([] if region == "us" else ["generator-0123456789abcdef"])
        loader.retire(planned, [planned])
        assert plans.deployer.running == ([] if region == "us" else ["generator-0123456789abcdef"])
        loader.retire(planned, [])
        assert plans.deployer.running == []
