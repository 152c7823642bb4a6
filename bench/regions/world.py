"""Three regions of the benchmark's own, side by side on this machine, that only search."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.documents.source_files import find_source_files
from bench.load.processes import pss_bytes
from cluster.arrays import Float32Array
from cluster.catalog.corpus_settings import CorpusSettings
from cluster.catalog.manifests import ManifestRef
from cluster.catalog.model_settings import GeneratorSettings
from cluster.config import Settings
from cluster.progress import Note
from cluster.query.caller import Location
from cluster.regions.settings import (
    EndpointSettings,
    RegionSettings,
    RoutingPolicy,
    RoutingSettings,
    StoreSettings,
)
from cluster.releases.entries import LogState, ReleaseContents
from cluster.releases.requests import ProposeRelease
from cluster.shards.index_parameters import IndexKind, IndexParameters
from cluster.vectors.metric import Metric
from deployments.demo.traffic import Ask, Traffic, traffic_to
from deployments.hosting.region_driver import (
    RegionDriver,
    join_new_cluster,
    run_in_each,
    start_services,
)
from deployments.installation import Installation
from deployments.nodes.ports import find_port_block
from tests.support.regions.driven_regions import DrivenRegions

CORPUS = "vectors"
DIMENSION, TOP_K, SHARDS = 384, 10, 2
KINDS = (IndexKind.HNSW, IndexKind.IVF_FLAT)
"""Of the two index versions that releases take turns with."""
PLACES = {
    "frankfurt": Location(latitude=50.1, longitude=8.7),
    "virginia": Location(latitude=38.9, longitude=-77.4),
    "singapore": Location(latitude=1.35, longitude=103.8),
}
_QUERIES = 64


@dataclass(kw_only=True)
class RegionsWorld(DrivenRegions):
    queries: Float32Array
    contents: list[ReleaseContents] = field(default_factory=list)
    start_s: dict[str, float] = field(default_factory=dict)

    def propose_next(self) -> int:
        """A release of the other index version, to be committed as soon as it is prepared."""
        other = other_contents(self.log, self.contents)
        return self.request(
            ProposeRelease(contents=other, targets=tuple(self.drivers), auto_commit=True)
        )

    def commit_next(self) -> int:
        number = self.propose_next()
        self.wait_until_serving(number)
        return number

    def traffic(self, *, pause_s: float) -> AbstractContextManager[Traffic]:
        installations = [driver.installation for driver in self.drivers.values()]
        return traffic_to(installations, lambda region: self.asker(region.post), pause_s=pause_s)

    def asker(self, post: Callable[[str, dict[str, object]], dict[str, Any]]) -> Ask:
        """Asks one query after the other, and again from the first one on."""
        bodies = itertools.cycle([{"vector": q.tolist(), "top_k": TOP_K} for q in self.queries])
        return lambda: post("/v1/search", next(bodies))

    def pss_mib(self, region: str) -> float:
        """Of all processes of the region, without its driver."""
        return pss_bytes(self.drivers[region].pids()) / 2**20


@contextmanager
def three_regions(num_vectors: int) -> Iterator[RegionsWorld]:
    """Every process and file of them is gone after the block."""
    with tempfile.TemporaryDirectory(prefix="rgb-") as temp, ExitStack() as stack:
        folder = Path(temp)
        rng = np.random.default_rng(5)
        queries = rng.standard_normal((_QUERIES, DIMENSION)).astype(np.float32)
        world = RegionsWorld(drivers={}, queries=queries)
        for name, settings in _settings(folder).items():
            world.drivers[name] = RegionDriver(Installation(settings, name))
            stack.callback(world.stop, name)
        every = list(world.drivers.values())
        with _timed(world, "three Ray clusters"):
            run_in_each(every, join_new_cluster)
        with _timed(world, "two index versions"):
            refs = every[0].run(_build, str(_write(folder, num_vectors, rng)))
            world.contents = [ReleaseContents(indexes={CORPUS: ref}) for ref in refs]
        with _timed(world, "coordinators and endpoints"):
            run_in_each(every, start_services)
        with _timed(world, "first release"):
            world.commit_next()
        yield world


def other_contents(log: LogState, contents: Sequence[ReleaseContents]) -> ReleaseContents:
    """The first of these that the current release is not made of."""
    current = log.switches[-1].release if log.switches else None
    serving = None if current is None else log.proposals[current].release.contents
    return next(one for one in contents if one != serving)


@contextmanager
def _timed(world: RegionsWorld, what: str) -> Iterator[None]:
    started_s = time.monotonic()
    yield
    world.start_s[what] = time.monotonic() - started_s
    print(f"{what}: {world.start_s[what]:.1f} s", flush=True)


def _settings(folder: Path) -> dict[str, Settings]:
    ports: list[int] = []
    for _ in PLACES:
        ports.append(find_port_block(avoid=ports).http)
    shared = Settings(
        store=StoreSettings(url=str(folder / "store")),
        regions={
            name: RegionSettings(
                http=EndpointSettings(port=port, gateways_max=1),
                location=place,
                # Only the first one builds.
                cpus=1 if number else None,
            )
            for number, ((name, place), port) in enumerate(zip(PLACES.items(), ports, strict=True))
        },
        corpora={CORPUS: CorpusSettings(shards=SHARDS, replicas=1)},
        generator=GeneratorSettings(source=None),
        routing=RoutingSettings(policy=RoutingPolicy.NEAREST),
    )
    # A cache of its own for each, as on machines of their own.
    return {name: shared.model_copy(update={"state_folder": folder / name}) for name in PLACES}


def _write(folder: Path, num_vectors: int, rng: np.random.Generator) -> Path:
    vectors = rng.standard_normal((num_vectors, DIMENSION)).astype(np.float32)
    columns: dict[str, Any] = {
        "id": [f"v-{number:06}" for number in range(num_vectors)],
        "text": [f"text of vector {number}" for number in range(num_vectors)],
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIMENSION),
    }
    path = folder / "vectors.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def _build(installation: Installation, note: Note, source: str) -> list[ManifestRef]:
    """Runs in a driver's process."""
    from deployments.hosting import pipeline

    refs = []
    listing = find_source_files([source])
    pipeline.ingest_documents(installation, CORPUS, listing, replace=False)
    for kind in KINDS:
        index = IndexParameters(kind=kind, metric=Metric.COSINE)
        corpus = installation.settings.corpus(CORPUS).model_copy(update={"index": index})
        settings = installation.settings.model_copy(update={"corpora": {CORPUS: corpus}})
        built = pipeline.build(Installation(settings, installation.region), CORPUS, None)
        refs.append(built.ref)
    return refs
