"""All of Faiss that is used here, typed: building one index file, opening it, asking it.

Faiss only proposes candidates, with scores right to a float32 kernel's error; see cluster/scoring.

What memory maps was measured with faiss 1.15.1 on 100,000 x 384: with IO_FLAG_MMAP_IFC all three
kinds open in 2 to 4 ms against some 100 ms, and allocate nothing for vectors, lists and graph,
which stay pages of the file (IO_FLAG_MMAP does so for IVFFlat alone and reads the others whole).
Opening an HNSW reads its graph once, since Faiss checks that every link leads somewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import faiss as _faiss
import numpy as np
import numpy.typing as npt

from cluster.errors import Corrupt
from cluster.manifests import IndexKind, IndexParameters, Metric
from cluster.search import Float32Array, Int64Array

# The stubs that Faiss ships lack or contradict half of what is used here.
faiss: Any = _faiss

# Below 20 queries Faiss compares vector by vector, from there on by BLAS, which rounds otherwise.
# So that a query meets the same lists of an IVF alone and in a batch, batches stay below.
_IVF_BATCH = 16
# k-means of Faiss warns below 39 training points for each centroid.
_POINTS_PER_LIST_MIN = 39
_HNSW_EF_MAX = 10_000

RowSelector = Any
"""An IDSelectorBitmap; opaque outside of this module."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Faiss works on one thread in the calling thread (OpenMP's setting is each thread's own)."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def num_lists(num_rows: int, asked: int | None) -> int:
    """Inverted lists of an IVF: as asked or 4 * sqrt(rows), but no more than can be trained."""
    wanted = round(4 * num_rows**0.5) if asked is None else asked
    return max(1, min(wanted, num_rows // _POINTS_PER_LIST_MIN))


def write_index(vectors: Float32Array, parameters: IndexParameters, path: Path) -> None:
    """Builds the index over float32 [n, d] and writes it; n may be 0. Equal input, equal bytes.

    One thread: HNSW inserts in the order of the threads otherwise, and shards are built side by
    side anyway.
    """
    num_rows, dimension = vectors.shape
    metric = faiss.METRIC_L2 if parameters.metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT
    seed = parameters.seed & 0x7FFFFFFF
    with one_thread():
        match parameters.kind:
            case IndexKind.FLAT:
                index = faiss.IndexFlat(dimension, metric)
            case IndexKind.IVF_FLAT:
                lists = num_lists(num_rows, parameters.nlist)
                quantizer = faiss.IndexFlat(dimension, metric)
                index = faiss.IndexIVFFlat(quantizer, dimension, lists, metric)
                index.cp.seed = seed
                # Silences the warning for a single list over fewer rows than that.
                index.cp.min_points_per_centroid = 1
                if num_rows:
                    index.train(vectors)
            case IndexKind.HNSW:
                index = faiss.IndexHNSWFlat(dimension, parameters.hnsw_m, metric)
                index.hnsw.rng = faiss.RandomGenerator(seed)
                index.hnsw.efConstruction = parameters.ef_construction
        if num_rows:
            index.add(vectors)
        faiss.write_index(index, str(path))


def row_selector(mask: npt.NDArray[np.bool_]) -> RowSelector:
    """What limits a search to the rows where `mask` is true. One bit a row."""
    return faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))


class FaissIndex:
    """An opened index. Searches may run in several threads at once; nothing changes it."""

    def __init__(self, index: Any, parameters: IndexParameters) -> None:
        self._index = index
        self._parameters = parameters
        self.num_rows: int = index.ntotal

    @classmethod
    def open(cls, path: Path, parameters: IndexParameters, dimension: int) -> Self:
        """Maps the file. Raises Corrupt when it is no index of this kind, metric and dimension."""
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except (RuntimeError, MemoryError, ValueError) as error:
            raise Corrupt(f"Faiss cannot read {path.name}: {str(error)[-200:]}") from error
        kinds = {
            IndexKind.FLAT: faiss.IndexFlat,
            IndexKind.IVF_FLAT: faiss.IndexIVFFlat,
            IndexKind.HNSW: faiss.IndexHNSWFlat,
        }
        metric = faiss.METRIC_L2 if parameters.metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT
        if not isinstance(index, kinds[parameters.kind]) or index.metric_type != metric:
            raise Corrupt(f"{path.name} is no {parameters.kind} for {parameters.metric}")
        if index.d != dimension:
            raise Corrupt(f"{path.name} has {index.d} dimensions, not {dimension}")
        return cls(index, parameters)

    def search(
        self, vectors: Float32Array, k: int, *, selector: RowSelector = None, effort: float = 1.0
    ) -> tuple[Float32Array, Int64Array]:
        """Candidates for float32 [n, d]: scores [n, k], higher is better, and rows [n, k], padded
        with -1. Flat returns the best k; the others what they find, looking `effort` times as far
        as the index's parameters say.

        Raises Corrupt when the index breaks under a search or names a row that it cannot have.
        """
        parameters = self._search_parameters(k, selector, effort)
        try:
            scores, rows = self._search(vectors, k, parameters)
        except RuntimeError as error:
            raise Corrupt(f"Faiss failed in a search: {str(error)[-200:]}") from error
        if rows.max(initial=-1) >= self.num_rows or rows.min(initial=-1) < -1:
            raise Corrupt("the index names a row that does not exist")
        return (-scores if self._parameters.metric is Metric.L2 else scores), rows

    def _search(
        self, vectors: Float32Array, k: int, parameters: Any
    ) -> tuple[Float32Array, Int64Array]:
        if self._parameters.kind is not IndexKind.IVF_FLAT or len(vectors) <= _IVF_BATCH:
            scores, rows = self._index.search(vectors, k, params=parameters)
            return scores, rows
        scores = np.empty((len(vectors), k), dtype=np.float32)
        rows = np.empty((len(vectors), k), dtype=np.int64)
        for top in range(0, len(vectors), _IVF_BATCH):
            batch = slice(top, top + _IVF_BATCH)
            scores[batch], rows[batch] = self._index.search(vectors[batch], k, params=parameters)
        return scores, rows

    def _search_parameters(self, k: int, selector: RowSelector, effort: float) -> Any:
        chosen = {} if selector is None else {"sel": selector}
        match self._parameters.kind:
            case IndexKind.FLAT:
                return faiss.SearchParameters(**chosen)
            case IndexKind.IVF_FLAT:
                nprobe = min(self._index.nlist, math.ceil(self._parameters.nprobe * effort))
                return faiss.SearchParametersIVF(nprobe=nprobe, **chosen)
            case IndexKind.HNSW:
                # A beam no wider than k would return whatever it met.
                wanted = max(self._parameters.ef_search, 2 * k) * effort
                ef_search = min(_HNSW_EF_MAX, math.ceil(wanted))
                return faiss.SearchParametersHNSW(efSearch=ef_search, **chosen)
