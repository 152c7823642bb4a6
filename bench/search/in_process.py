"""The peer: the same index, searched in this process, by Faiss alone and up to the same answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from actors.shards.faiss_index import faiss
from actors.shards.index import INDEX_FILE, ShardIndex
from bench.load.client import quantile_of
from cluster.arrays import Float32Array
from cluster.catalog.manifests import IndexManifest
from cluster.query.search import MergedHits, ShardQuery
from cluster.shards.merge import merge_hits
from cluster.vectors.checks import prepared

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Calls of one kind, for some time."""

    latencies_s: list[float]
    """Ascending."""
    calls_per_s: float

    @property
    def p50_s(self) -> float:
        return quantile_of(self.latencies_s, 0.5)

    @property
    def mean_s(self) -> float:
        return sum(self.latencies_s) / len(self.latencies_s)


class InProcess:
    """All shards of one index version, opened here from the files that the replicas map too."""

    def __init__(self, manifest: IndexManifest, folders: Sequence[Path], top_k: int) -> None:
        self._manifest = manifest
        self._top_k = top_k
        parameters = manifest.parameters
        self._shards = [ShardIndex.open(f, parameters, manifest.dimension) for f in folders]
        self._faiss = [
            faiss.read_index(str(folder / INDEX_FILE), faiss.IO_FLAG_MMAP_IFC) for folder in folders
        ]
        if parameters.kind.is_graph:
            for index in self._faiss:
                index.hnsw.efSearch = max(parameters.ef_search, 2 * top_k)

    def faiss(self, vectors: Float32Array) -> None:
        """Faiss alone: rows of every shard, neither merged nor with their ids and texts."""
        for index in self._faiss:
            index.search(vectors, self._top_k)

    def faiss_one_shard(self, vectors: Float32Array) -> None:
        self._faiss[0].search(vectors, self._top_k)

    def search_one_shard(self, vectors: Float32Array) -> None:
        """The work of one replica for a search."""
        self._shards[0].search(self._query(vectors))

    def merged(self, vectors: Float32Array) -> MergedHits:
        query = self._query(vectors)
        parts = [(number, shard.search(query)) for number, shard in enumerate(self._shards)]
        return merge_hits(parts, self._top_k)

    def same_answer(self, vectors: Float32Array) -> None:
        """Everything that the answer of `/v1/search` is made of."""
        self.fetch(self.merged(vectors))

    def fetch(self, merged: MergedHits) -> None:
        for number, shard in enumerate(self._shards):
            shard.passages(merged.rows[merged.shards == number], None)

    def _query(self, vectors: Float32Array) -> ShardQuery:
        return ShardQuery(
            corpus=self._manifest.corpus,
            index_version=self._manifest.version,
            vectors=prepared(vectors, self._manifest.parameters.metric),
            top_k=self._top_k,
        )


def timed(
    work: Callable[[T], object], inputs: Sequence[T], *, threads: int, window_s: float
) -> Timed:
    """Calls `work` with the inputs in turn, from so many threads, until the window closes."""
    stops = threading.Event()
    latencies: list[list[float]] = [[] for _ in range(threads)]

    def client(number: int) -> None:
        # OpenMP's setting is each thread's own; here threads are what searches in parallel.
        faiss.omp_set_num_threads(1)
        mine = latencies[number]
        turn = number
        while not stops.is_set():
            given = inputs[turn % len(inputs)]
            started_s = time.perf_counter()
            work(given)
            mine.append(time.perf_counter() - started_s)
            turn += threads

    work(inputs[0])
    clients = [threading.Thread(target=client, args=(number,)) for number in range(threads)]
    started_s = time.perf_counter()
    for thread in clients:
        thread.start()
    stops.wait(window_s)
    stops.set()
    for thread in clients:
        thread.join()
    took_s = time.perf_counter() - started_s
    every = sorted(one for of_client in latencies for one in of_client)
    return Timed(latencies_s=every, calls_per_s=len(every) / took_s)


def in_batches(vectors: Float32Array, size: int) -> list[Float32Array]:
    """Full batches only; the vectors are repeated where they do not make one."""
    if len(vectors) < size:
        vectors = np.resize(vectors, (size, vectors.shape[1]))
    ends = range(size, len(vectors) + 1, size)
    return [np.ascontiguousarray(vectors[end - size : end]) for end in ends]
