"""The documents actors of regions that share a store, with a coordinator that serves one corpus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import numpy as np

from actors.mutations.corpus import DocumentBounds
from actors.mutations.documents import Documents
from cluster.artifacts.artifacts import Artifacts
from cluster.artifacts.cache import ArtifactCache
from cluster.clock import SYSTEM_CLOCK, Clock
from cluster.config import Settings
from cluster.deltas.followers import ALIVE_S
from cluster.generation.prompt import PromptTemplate
from cluster.mutations.conflicts import ConflictPolicy
from cluster.mutations.fold import DocumentFold
from cluster.mutations.region_writer import Written
from cluster.mutations.requests import DocumentWrite
from cluster.mutations.store_log import StoreMutationLog
from cluster.regions.settings import EndpointSettings, RegionSettings
from cluster.releases.entries import Switch
from cluster.serving.view import CorpusView, RegionView, ReleaseView
from cluster.store.object_store import ObjectStore
from cluster.vectors.metric import Metric

CORPUS = "tickets"
DIMENSION = 4
TIMEOUT_S = 20.0


def view_of(*corpora: str, region: str = "a", elsewhere: Sequence[str] = ()) -> RegionView:
    """A region that serves one release of these corpora, which bring their vectors."""
    views = {
        name: CorpusView(
            corpus=name,
            index_version="v",
            dimension=DIMENSION,
            metric=Metric.COSINE,
            metadata_schema={},
            has_embedder=False,
            num_passages=1,
            recall_at_10=1.0,
            shards=(),
        )
        for name in corpora
    }
    release = ReleaseView(
        number=1,
        corpora=views,
        embedders=(),
        generator=None,
        prompt=PromptTemplate(),
        elsewhere=frozenset(elsewhere),
    )
    return RegionView(
        region=region,
        releases={1: release},
        switches=(Switch(release=1, at_ms=0, position=1),),
        revision="/".join(corpora) or "none",
    )


class FakeCoordinator:
    """Publishes the views that it is given."""

    def __init__(self, view: RegionView) -> None:
        self.view = view
        self.documents: object = None
        """What it was told last of the documents."""
        self.seen: object = None
        """The last view that whoever asks has seen."""
        self._changed = asyncio.Event()

    def publish(self, view: RegionView) -> None:
        self.view = view
        self._changed.set()

    async def call(self, method: str, *args: object) -> object:
        if method == "documents":
            (self.documents,) = args
            return None
        assert method == "view"
        (self.seen, _) = args
        if args[0] == self.view.revision:
            self._changed.clear()
            await self._changed.wait()
        return self.view


def settings_of(*regions: str, urls: Mapping[str, str] | None = None) -> Settings:
    endpoints = {
        name: RegionSettings(url=(urls or {}).get(name), http=EndpointSettings(port=8000 + n))
        for n, name in enumerate(regions)
    }
    return Settings(regions=endpoints)


@asynccontextmanager
async def documents_region(
    store: ObjectStore,
    folder: Path,
    region: str = "a",
    *,
    regions: Sequence[str] = ("a",),
    urls: Mapping[str, str] | None = None,
    coordinator: FakeCoordinator | None = None,
    clock: Clock = SYSTEM_CLOCK,
    bounds: DocumentBounds | None = None,
    alive_s: float = ALIVE_S,
) -> AsyncIterator[Documents]:
    """The actor of one region; `folder` is for its cache, `urls` are those of other regions."""
    documents = Documents(
        settings_of(*regions, urls=urls),
        region,
        store,
        ArtifactCache(Artifacts(store), folder / region),
        coordinator or FakeCoordinator(view_of(CORPUS, region=region)),
        clock,
        bounds=bounds,
        alive_s=alive_s,
    )
    try:
        yield documents
    finally:
        await documents.stop()


def write_of(document: str, text: str | None = "text", **more: object) -> DocumentWrite:
    vector = None if text is None else np.full(DIMENSION, len(text) or 1, dtype=np.float32)
    return DocumentWrite(id=document, text=text, metadata={}, vector=vector, **more)  # type: ignore[arg-type]


async def written(documents: Documents, *writes: DocumentWrite) -> list[Written]:
    """Writes, all of which must be written."""
    outcomes = await documents.write(CORPUS, writes, TIMEOUT_S)
    assert all(isinstance(outcome, Written) for outcome in outcomes), outcomes
    return cast("list[Written]", list(outcomes))


def folded(store: ObjectStore) -> DocumentFold:
    """What the logs in the store come to."""
    log, fold = StoreMutationLog(store, CORPUS), DocumentFold(ConflictPolicy.LAST_WRITER)
    while batches := log.read_after(fold.watermark).batches:
        assert all(fold.apply(batch) for batch in batches)
    return fold
