"""A small region that tries canaries: vectors a in two shards are current, vectors b are new, and a
third release has a shard that no other one has, so that it can be made to hang alone.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from actors.documents.source_files import find_source_files
from cluster.canary.board import lot_of
from cluster.catalog.corpus_settings import CorpusSettings
from cluster.catalog.manifests import ManifestRef
from cluster.catalog.model_settings import GeneratorSettings
from cluster.config import Settings
from cluster.regions.settings import EndpointSettings, RegionSettings, StoreSettings
from cluster.releases.entries import ReleaseContents
from cluster.shards.index_parameters import IndexKind, NamedIndex
from cluster.vectors.metric import Metric
from deployments.installation import Installation
from deployments.nodes.local_cluster import find_local_cluster
from tests.support.regions import search_region
from tests.support.regions.ports import region_port
from tests.support.regions.search_region import CORPUS, REGION, SHARDS, SearchRegion, make_vectors

T = TypeVar("T")
WIDE = "wide"
"""What a release with one shard more is made of."""
FLAT = NamedIndex(kind=IndexKind.FLAT, metric=Metric.COSINE)


@contextmanager
def canary_region(folder: Path, **http: object) -> Iterator[SearchRegion]:
    """Brings the region up in `folder`, with release 1 of the vectors a; ends all of it. `http`
    changes its endpoint.
    """
    queries, vectors = make_vectors()
    # A gateway that searches by itself would not notice that an actor hangs.
    endpoint = EndpointSettings.model_validate(
        {"port": region_port(), "local_first": False, **http}
    )
    settings = Settings(
        store=StoreSettings(url=str(folder / "store")),
        regions={REGION: RegionSettings(http=endpoint)},
        corpora={CORPUS: CorpusSettings(shards=SHARDS, replicas=1, index=FLAT)},
        generator=GeneratorSettings(source=None),
        state_folder=folder,
    )
    known = {**vectors, WIDE: vectors["b"]}
    region = SearchRegion(Installation(settings, REGION), queries, known)
    try:
        region.run(search_region.start_cluster, settings)
        for name, letter, shards in (("a", "a", SHARDS), ("b", "b", SHARDS), (WIDE, "b", 3)):
            ref = region.run(build, settings, str(vectors[letter].write(folder)), shards)
            region.contents[name] = ReleaseContents(indexes={CORPUS: ref})
        region.run(search_region.start_services)
        number = region.propose("a")
        region.coordinator("wait_until_serving", number, 120.0)
        yield region
    finally:
        region.close()
        if (found := find_local_cluster(region.installation.run_folder)) is not None:
            found.stop()


def build(settings: Settings, path: str, shards: int) -> ManifestRef:
    """Runs in the driver's process."""
    from deployments.hosting import pipeline

    cut = settings.corpora[CORPUS].model_copy(update={"shards": shards})
    installation = Installation(settings.model_copy(update={"corpora": {CORPUS: cut}}), REGION)
    listing = find_source_files([path])
    pipeline.ingest_documents(installation, CORPUS, listing, replace=True)
    return pipeline.build(installation, CORPUS, None).ref


def prepared(region: SearchRegion, contents: str) -> int:
    """A proposal that is prepared and waits to be tried."""
    number = region.propose(contents, commit=False)
    region.coordinator("wait_until_prepared", number, 120.0)
    return number


def is_tried_on(user: str, release: int, percent: float) -> bool:
    return lot_of(user, release) * 100 < percent


@dataclass
class UserLoad(Generic[T]):
    """Asks at a steady rate, each time as another user, until the block ends; it waits for nobody.

    `ask` takes the user and the number of the request.
    """

    ask: Callable[[str, int], T]
    per_s: float
    replies: list[tuple[str, float, T]] = field(default_factory=list)
    """User, when it was asked, what came back."""

    def __enter__(self) -> UserLoad[T]:
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(128)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._pool.shutdown()

    def _run(self) -> None:
        started_s = time.monotonic()
        for number in itertools.count():
            if self._over.wait(max(0.0, started_s + number / self.per_s - time.monotonic())):
                return
            self._pool.submit(self._ask, f"visitor-{number}", number)

    def _ask(self, user: str, number: int) -> None:
        asked_s = time.monotonic()
        self.replies.append((user, asked_s, self.ask(user, number)))
