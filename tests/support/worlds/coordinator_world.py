"""What a coordinator works with where nothing is deployed: settings, and a release."""

from __future__ import annotations

import threading

from actors.coordinator.coordinator import Coordinator
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import ModelManifest
from cluster.catalog.model_settings import GeneratorSettings
from cluster.config import Settings
from cluster.regions.settings import RegionSettings
from cluster.releases.entries import ReleaseContents
from cluster.releases.requests import ProposeRelease
from cluster.releases.settings import RolloutPolicy
from cluster.store.object_store import ObjectStore
from tests.support.values.manifests import index_manifest

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
    ref = Catalog(store).publish_index(index_manifest()).ref
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
