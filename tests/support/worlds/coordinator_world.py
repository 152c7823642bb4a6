"""What a coordinator works with where nothing is deployed: a store with a door, and a release."""

from __future__ import annotations

import threading
from collections.abc import Callable

from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import IndexManifest, ModelManifest
from cluster.catalog.model_settings import GeneratorSettings
from cluster.config import Settings
from cluster.errors import Unavailable
from cluster.regions.settings import RegionSettings
from cluster.releases.entries import ReleaseContents
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


class Door:
    """The store, which may be shut (it fails), or held (it does not answer)."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.shut = False
        self.open = threading.Event()
        self.open.set()
        self.knocked = threading.Event()
        """Whether somebody waits before a held door."""

    def __getattr__(self, name: str) -> Callable[..., object]:
        operation = getattr(self._store, name)

        def through(*args: object, **options: object) -> object:
            if not self.open.is_set():
                self.knocked.set()
            assert self.open.wait(WAIT_S)
            if self.shut:
                raise Unavailable("the door is shut")
            return operation(*args, **options)

        return through


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
