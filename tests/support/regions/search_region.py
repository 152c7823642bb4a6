"""A small region that only searches, for tests that break parts of it while it serves.

    vectors a, b (ready-made) -> two index versions -> releases that take turns -> HTTP

Ids tell the index version (`a-017`), and exact search over the same vectors tells which ids are
right, so every reply can be judged: failed, wrong, or right for the release that it names. The Ray
driver is a process of its own, so that the test's process stays out of every cluster.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.documents.source_files import find_source_files
from actors.runtime import names
from cluster.arrays import Float32Array
from cluster.catalog.corpus_settings import CorpusSettings
from cluster.catalog.manifests import ManifestRef
from cluster.catalog.model_settings import GeneratorSettings
from cluster.config import Settings
from cluster.regions.settings import EndpointSettings, RegionSettings, StoreSettings
from cluster.releases.entries import LogState, ReleaseContents
from cluster.releases.requests import ProposeRelease, ReleaseRequest
from cluster.shards.index_parameters import IndexKind, NamedIndex
from cluster.vectors.metric import Metric
from deployments.installation import Installation
from deployments.nodes.local_cluster import LocalCluster, find_local_cluster
from tests.support.regions.built_once import BUILT
from tests.support.regions.ports import region_port
from tests.support.second_node import add_node
from tests.support.waiting import wait_until

T = TypeVar("T")
REGION = "testland"
CORPUS = "vectors"
SHARDS, REPLICAS, TOP_K = 2, 2, 5
REPLICA_NAMES = [names.replica(CORPUS, s, r) for s in range(SHARDS) for r in range(REPLICAS)]
DIMENSION = 16
_DOCUMENTS, _QUERIES = 400, 32
_GAP_MIN = 1e-4
"""Least distance between scores that must not change places by rounding."""


@dataclass(frozen=True)
class Vectors:
    """The documents of one index version, as vectors, and what the queries must find in them."""

    letter: str
    documents: Float32Array
    expected: tuple[tuple[str, ...], ...]
    """Passage ids of the best, for each query."""

    def write(self, folder: Path) -> Path:
        ids = [f"{self.letter}-{i:03}" for i in range(len(self.documents))]
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(self.documents.ravel()), DIMENSION)
        table = pa.table({"id": ids, "text": [f"text of {i}" for i in ids], "vector": vectors})
        path = folder / f"{self.letter}.parquet"
        pq.write_table(table, path)
        return path


def make_vectors() -> tuple[Float32Array, dict[str, Vectors]]:
    """Queries, float32 [n, d], and two sets of documents without near ties for any of them."""
    rng = np.random.default_rng(7)
    documents = {
        letter: rng.standard_normal((_DOCUMENTS, DIMENSION)).astype(np.float32) for letter in "ab"
    }
    drawn = rng.standard_normal((_QUERIES * 2, DIMENSION)).astype(np.float32)
    scores = {
        letter: drawn @ (d / np.linalg.norm(d, axis=1, keepdims=True)).T
        for letter, d in documents.items()
    }
    best = {letter: np.argsort(-s, axis=1)[:, : TOP_K + 1] for letter, s in scores.items()}
    gaps = [
        -np.diff(np.take_along_axis(scores[letter], best[letter], axis=1), axis=1).max(axis=1)
        for letter in "ab"
    ]
    clear = np.flatnonzero(np.min(gaps, axis=0) > _GAP_MIN)[:_QUERIES]
    return drawn[clear], {
        letter: Vectors(
            letter,
            documents[letter],
            tuple(tuple(f"{letter}-{i:03}" for i in row[:TOP_K]) for row in best[letter][clear]),
        )
        for letter in "ab"
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    query: int
    release: int | None = None
    ids: tuple[str, ...] = ()
    coverage: float = 0.0
    error: str = ""
    """Empty when the query was answered."""
    took_s: float


@dataclass
class SearchRegion:
    installation: Installation
    queries: Float32Array
    vectors: Mapping[str, Vectors]
    contents: dict[str, ReleaseContents] = field(default_factory=dict)
    """What a release of each set of vectors is made of."""
    node_pid: int = 0
    """The process that holds the second node together."""

    def __post_init__(self) -> None:
        # Spawned, since Ray does not survive a fork.
        self._driver = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

    @property
    def cluster(self) -> LocalCluster:
        found = find_local_cluster(self.installation.run_folder)
        assert found is not None
        return found

    def submit(self, function: Callable[..., T], *args: object) -> Future[T]:
        """Runs a function in the driver's process."""
        return self._driver.submit(function, *args)

    def run(self, function: Callable[..., T], *args: object, timeout_s: float = 240) -> T:
        return self.submit(function, *args).result(timeout_s)

    def coordinator(self, method: str, *args: object) -> Any:
        """Calls the coordinator's client; raises what it raises."""
        return self.run(call_coordinator, method, args)

    def request(self, request: ReleaseRequest) -> int:
        """The number of the release that the request is about."""
        number: int = self.run(call_coordinator, "request", (request,))
        return number

    def propose(self, contents: str, *, commit: bool = True) -> int:
        """A release of one of the region's contents; `commit`: as soon as it is prepared."""
        return self.request(
            ProposeRelease(contents=self.contents[contents], targets=(REGION,), auto_commit=commit)
        )

    @property
    def release_log(self) -> LogState:
        """Straight from the store."""
        return self.installation.read_release_log()

    def status(self) -> dict[str, Any]:
        """What `/v1/status` says; empty while it says nothing."""
        try:
            reply = httpx.get(f"{self.installation.url}/v1/status", timeout=10, trust_env=False)
        except httpx.TransportError:
            return {}
        return dict(reply.json()) if reply.is_success else {}

    def is_whole(self) -> bool:
        return bool(self.status().get("healthy"))

    def pid_of(self, title: str) -> int | None:
        """A process of the cluster whose title begins so, such as `ray::Coordinator`."""
        return next(iter(self.cluster.pids(title)), None)

    def kill(self, title: str) -> int:
        """Kills that process at once; returns its pid."""
        pid = self.pid_of(title)
        assert pid is not None, f"there is no process {title}"
        os.kill(pid, signal.SIGKILL)
        return pid

    def search(self, client: httpx.Client, query: int, **options: object) -> Reply:
        body = {"vector": self.queries[query].tolist(), "top_k": TOP_K, **options}
        started_s = time.monotonic()
        try:
            reply = client.post("/v1/search", json=body)
        except httpx.TransportError as error:
            took_s = time.monotonic() - started_s
            return Reply(query=query, error=repr(error), took_s=took_s)
        took_s = time.monotonic() - started_s
        if not reply.is_success:
            return Reply(query=query, error=f"{reply.status_code} {reply.text}", took_s=took_s)
        found = reply.json()
        return Reply(
            query=query,
            release=found["release"],
            ids=tuple(hit["id"] for hit in found["hits"]),
            coverage=found["coverage"],
            took_s=took_s,
        )

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.installation.url, timeout=60, trust_env=False)

    def letters(self) -> dict[int, str]:
        """Which vectors each release serves, from the release log in the store."""
        proposals = self.release_log.proposals
        by_version = {c.indexes[CORPUS].version: letter for letter, c in self.contents.items()}
        return {
            number: by_version[proposal.release.contents.indexes[CORPUS].version]
            for number, proposal in proposals.items()
        }

    def is_right(self, reply: Reply, letters: Mapping[int, str]) -> bool:
        """Whether the ids are those of exact search in the release that the reply names."""
        assert reply.release is not None
        expected = self.vectors[letters[reply.release]].expected[reply.query]
        return reply.coverage == 1.0 and reply.ids == expected

    def close(self) -> None:
        self._driver.submit(_leave)
        self._driver.shutdown()


@dataclass
class Load:
    """Asks from several clients, without a pause of more than moments, until the block ends."""

    region: SearchRegion
    clients: int = 4
    pause_s: float = 0.02
    timeout_ms: int = 10_000
    replies: list[Reply] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(number,)) for number in range(self.clients)
        ]
        for thread in self._threads:
            thread.start()
        self.go_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def go_on(self, replies: int = 20) -> None:
        """Returns when so many more replies have come."""
        wanted = len(self.replies) + replies
        wait_until(lambda: len(self.replies) >= wanted, "replies")

    def verdict(self, doing: str) -> tuple[list[Reply], list[Reply]]:
        """The failed and the wrong replies; prints the counts."""
        letters = self.region.letters()
        failed = [reply for reply in self.replies if reply.error]
        answered = [reply for reply in self.replies if not reply.error]
        wrong = [reply for reply in answered if not self.region.is_right(reply, letters)]
        slowest_s = max(reply.took_s for reply in self.replies)
        print(
            f"\n{doing}: {len(self.replies)} queries, {len(failed)} failed, {len(wrong)} wrong, "
            f"slowest {slowest_s:.2f} s"
        )
        return failed, wrong

    def _ask(self, number: int) -> None:
        query = number
        with self.region.client() as client:
            while not self._over.wait(self.pause_s):
                query = (query + 1) % len(self.region.queries)
                reply = self.region.search(client, query, timeout_ms=self.timeout_ms)
                self.replies.append(reply)


def search_settings(folder: Path, *, gcs_redis: str | None = None, **http: object) -> Settings:
    """Of a region that keeps everything in `folder`; `http` changes its endpoint."""
    corpus = CorpusSettings(
        shards=SHARDS,
        replicas=REPLICAS,
        index=NamedIndex(kind=IndexKind.FLAT, metric=Metric.COSINE),
    )
    endpoint = EndpointSettings.model_validate({"port": region_port(), **http})
    return Settings(
        store=StoreSettings(url=str(folder / "store")),
        regions={REGION: RegionSettings(http=endpoint, gcs_redis=gcs_redis)},
        corpora={CORPUS: corpus},
        generator=GeneratorSettings(source=None),
        state_folder=folder,
    )


@contextmanager
def search_region(folder: Path, settings: Settings | None = None) -> Iterator[SearchRegion]:
    """Brings a region up in `folder`, with release 1 of the vectors a; ends all of it."""
    settings = settings or search_settings(folder)
    queries, vectors = make_vectors()
    region = SearchRegion(Installation(settings, REGION), queries, vectors)
    try:
        started_s = time.monotonic()
        BUILT.write(folder / "store")
        region.run(start_cluster, settings)
        if not BUILT.contents:
            for letter, made in vectors.items():
                ref = region.run(_build, str(made.write(folder)))
                BUILT.contents[letter] = ReleaseContents(indexes={CORPUS: ref})
            BUILT.read(folder / "store")
        region.contents.update(BUILT.contents)
        # The endpoint is on the first node; the replicas, which come later, are on both.
        region.run(start_services)
        region.node_pid = add_node(region.cluster)
        number = region.propose("a")
        region.coordinator("wait_until_serving", number, 120.0)
        print(f"\nregion up after {time.monotonic() - started_s:.1f} s")
        yield region
    finally:
        try:
            region.close()
        finally:
            found = find_local_cluster(region.installation.run_folder)
            if found is not None:
                found.stop()


# What runs in the driver's process.

_joined: list[Installation] = []


def start_cluster(settings: Settings) -> None:
    from deployments.hosting import region_host

    installation = Installation(settings, REGION)
    region_host.start_cluster(installation)
    region_host.join(installation)
    _joined.append(installation)


def _build(path: str) -> ManifestRef:
    from deployments.hosting import pipeline

    listing = find_source_files([path])
    pipeline.ingest_documents(_joined[0], CORPUS, listing, replace=True)
    return pipeline.build(_joined[0], CORPUS, None).ref


def start_services() -> None:
    from deployments.hosting import region_host

    region_host.start_services(_joined[0], lambda _: None)


def call_coordinator(method: str, args: Sequence[object]) -> Any:
    from actors.coordinator.client import CoordinatorClient

    return getattr(CoordinatorClient(), method)(*args)


def replica_status(name: str) -> Any:
    """What the replica says of itself; None while it says nothing."""
    return _of_actor(name, lambda actor: actor.status.remote())


def node_of_replica(name: str) -> Any:
    """The id of the node on which the replica runs; None while it says nothing."""
    return _of_actor(name, lambda actor: actor.__ray_call__.remote(_own_node))


def head_node() -> str:
    """The id of the node to which the driver belongs."""
    return _own_node(None)


def _own_node(_: object) -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _of_actor(name: str, call: Callable[[Any], Any]) -> Any:
    import ray
    from ray.exceptions import RayError

    from actors.runtime.calls import NAMESPACE

    try:
        return ray.get(call(ray.get_actor(name, namespace=NAMESPACE)), timeout=5)
    except (RayError, ValueError):
        return None


def _leave() -> None:
    from deployments.hosting import region_host

    region_host.leave()
