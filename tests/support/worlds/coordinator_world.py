"""What a coordinator works with where nothing is deployed: settings, and a release."""

from __future__ import annotations

import threading

from actors.coordinator.coordinator import Coordinator
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import IndexManifest, ModelManifest
from cluster.catalog.model_settings import GeneratorSettings
from cluster.config import Settings
from cluster.regions.settings import RegionSettings
from cluster.releases.entries import ReleaseContents
from cluster.releases.requests import ProposeRelease
from cluster.releases.settings import RolloutPolicy
from cluster.shards.index_parameters import IndexParameters
from cluster.store.object_store import ObjectStore

WAIT_S = 30.0
SETTINGS = Settings(regions={"local": RegionSettings(), "elsewhere": RegionSettings()})


class Deployer:
    def start(
        self,
        model: ModelManifest,
        application: str,
        settings: GeneratorSettings,
        give_up: threading.Event,
    ) -> None:
        raise AssertionError("there is no release")

    def wait_until_running(
        self, model: ModelManifest, application: str, give_up: threading.Event
    ) -> None:
        raise AssertionError("there is no release")

    def delete(self, application: str) -> None:
        raise AssertionError("there is no release")

    def applications(self) -> set[str]:
        return set()


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
    ref = Catalog(store).publish_index(manifest).ref
    return ReleaseContents(indexes={"c": ref})


def propose(
    coordinator: Coordinator,
    contents: ReleaseContents,
    *targets: str,
    auto_commit: bool = True,
    policy: RolloutPolicy | None = None,
) -> int:
    return coordinator.request(
        ProposeRelease(contents=contents, targets=targets, auto_commit=auto_commit, policy=policy)
    )
