"""Three regions of the benchmark's own, side by side on this machine, that only search."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.processes import pss_bytes
from cluster.config import (
    CorpusSettings,
    EndpointSettings,
    GeneratorSettings,
    Location,
    RegionSettings,
    RoutingPolicy,
    RoutingSettings,
    Settings,
    StoreSettings,
)
from cluster.errors import DeadlineExceeded, RaygionError
from cluster.manifests import IndexKind, IndexParameters, ManifestRef, Metric
from cluster.releases import LogState, ReleaseContents
from cluster.search import Float32Array
from deployments.cluster_ports import find_port_block
from deployments.http_client import HttpRegion
from deployments.installation import Installation
from deployments.region_driver import (
    Note,
    RegionDriver,
    join_new_cluster,
    run_in_each,
    start_services,
)
from deployments.region_traffic import Traffic

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
_RETRY_S = 0.05
_TIMEOUT_S = 120.0


@dataclass
class RegionsWorld:
    drivers: dict[str, RegionDriver]
    queries: Float32Array
    contents: list[ReleaseContents] = field(default_factory=list)
    start_s: dict[str, float] = field(default_factory=dict)

    @property
    def log(self) -> LogState:
        return next(iter(self.drivers.values())).installation.read_release_log()

    def at_leader(self, method: str, *args: object, **options: object) -> Any:
        """Calls the coordinator that leads; asks again until one does."""
        deadline_s = time.monotonic() + _TIMEOUT_S
        while True:
            leader = self.log.leader or next(iter(self.drivers))
            try:
                return self.drivers[leader].coordinator(method, *args, **options)
            except RaygionError as error:
                if not error.retryable or time.monotonic() > deadline_s:
                    raise
                time.sleep(_RETRY_S)

    def propose_next(self) -> int:
        """A release of the other index version, to be committed as soon as it is prepared."""
        number = self.log.next_release
        proposed: int = self.at_leader(
            "propose",
            self.contents[number % len(self.contents)],
            targets=tuple(self.drivers),
            auto_commit=True,
        )
        return proposed

    def commit_next(self) -> int:
        number = self.propose_next()
        self.wait_until_serving(number)
        return number

    def wait_until_serving(self, number: int, *regions: str) -> None:
        """Returns when the release is current in these regions (by default all), all of it."""
        deadline_s = time.monotonic() + _TIMEOUT_S
        for region in regions or self.drivers:
            while not self._serves(region, number):
                if time.monotonic() > deadline_s:
                    raise DeadlineExceeded(f"release {number} is not served in {region}")
                time.sleep(_RETRY_S)

    def _serves(self, region: str, number: int) -> bool:
        """Asked over HTTP, since the coordinator may be gone at the moment."""
        try:
            with HttpRegion.of(self.drivers[region].installation) as http:
                status = http.get("/v1/status")
        except RaygionError:
            return False
        return bool(status["release"] == number and status["healthy"])

    def start_again(self, region: str) -> None:
        """Brings up a region whose processes were killed."""
        installation = self.drivers[region].installation
        self.drivers[region].stop()
        self.drivers[region] = RegionDriver(installation)
        self.drivers[region].run(join_new_cluster)
        self.drivers[region].run(start_services)

    @contextmanager
    def traffic(self, *, pause_s: float) -> Iterator[Traffic]:
        """Vector queries to every region."""
        with ExitStack() as stack:
            regions = {
                name: stack.enter_context(HttpRegion.of(driver.installation))
                for name, driver in self.drivers.items()
            }
            asks = {
                name: partial(region.post, "/v1/search", self.body())
                for name, region in regions.items()
            }
            yield stack.enter_context(Traffic(asks, pause_s=pause_s))

    def body(self) -> dict[str, Any]:
        return {"vector": self.queries[0].tolist(), "top_k": TOP_K}

    def pss_mib(self, region: str) -> float:
        """Of all processes of the region, without its driver."""
        return pss_bytes(self.drivers[region].pids()) / 2**20


@contextmanager
def three_regions(num_vectors: int) -> Iterator[RegionsWorld]:
    """Every process and file of them is gone after the block."""
    with tempfile.TemporaryDirectory(prefix="rgb-") as temp, ExitStack() as stack:
        folder = Path(temp)
        rng = np.random.default_rng(5)
        drivers: dict[str, RegionDriver] = {}
        for name, settings in _settings(folder).items():
            drivers[name] = RegionDriver(Installation(settings, name))
            # Looked up at the end: a region that was killed has another driver then.
            stack.callback(partial(_stop, drivers, name))
        queries = rng.standard_normal((_QUERIES, DIMENSION)).astype(np.float32)
        world = RegionsWorld(drivers, queries)
        every = list(drivers.values())
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


def _stop(drivers: dict[str, RegionDriver], name: str) -> None:
    drivers[name].stop()


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
    from deployments import pipeline
    from deployments.console import Steps

    refs = []
    with Steps(quiet=True).step("build") as step:
        pipeline.ingest_documents(installation, CORPUS, [source], replace=False, step=step)
        for kind in KINDS:
            index = IndexParameters(kind=kind, metric=Metric.COSINE)
            corpus = installation.settings.corpus(CORPUS).model_copy(update={"index": index})
            settings = installation.settings.model_copy(update={"corpora": {CORPUS: corpus}})
            built = pipeline.build(Installation(settings, installation.region), CORPUS, None, step)
            refs.append(built.ref)
    return refs
