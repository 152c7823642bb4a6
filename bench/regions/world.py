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

from bench.load.processes import pss_bytes
from bench.regions.driven_regions import DrivenRegions, build_each, regions_at
from cluster.arrays import Float32Array
from cluster.catalog.corpus_settings import CorpusSettings
from cluster.catalog.model_settings import GeneratorSettings
from cluster.config import Settings
from cluster.query.caller import Location
from cluster.regions.settings import (
    RoutingPolicy,
    RoutingSettings,
    StoreSettings,
)
from cluster.releases.entries import LogState, ReleaseContents
from cluster.releases.requests import ProposeRelease
from cluster.shards.index_parameters import IndexKind, NamedIndex
from cluster.vectors.metric import Metric
from deployments.demo.traffic import Ask, Traffic, traffic_to
from deployments.hosting.region_driver import (
    RegionDriver,
    join_new_cluster,
    run_in_each,
    start_services,
)
from deployments.installation import Installation

CORPUS = "vectors"
DIMENSION, TOP_K, SHARDS = 384, 10, 2
INDEXES = {
    kind.value: NamedIndex(kind=kind, metric=Metric.COSINE)
    for kind in (IndexKind.HNSW, IndexKind.IVF_FLAT)
}
"""The two index versions that releases take turns with."""
LOCATIONS = {
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
        """Memory of all processes of the region, without its driver."""
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
            source = str(_write(folder, num_vectors, rng))
            refs = every[0].run(build_each, CORPUS, source, INDEXES)
            world.contents = [ReleaseContents(indexes={CORPUS: ref}) for ref in refs.values()]
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
    shared = Settings(
        store=StoreSettings(url=str(folder / "store")),
        regions=regions_at(LOCATIONS),
        corpora={CORPUS: CorpusSettings(shards=SHARDS, replicas=1)},
        generator=GeneratorSettings(source=None),
        routing=RoutingSettings(policy=RoutingPolicy.NEAREST),
    )
    # A cache of its own for each, as on machines of their own.
    return {name: shared.model_copy(update={"state_folder": folder / name}) for name in LOCATIONS}


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
