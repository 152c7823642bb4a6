"""Faiss, typed: opening one index file, and asking it. (`actors.shards.faiss_build` writes it.)

Faiss only proposes candidates, with scores right to a float32 kernel's error; see
`cluster.vectors.scoring`.

What memory maps was measured with faiss 1.15.1 on 100,000 x 384: with IO_FLAG_MMAP_IFC all kinds
open in 2 to 4 ms against some 100 ms, and allocate nothing for vectors, codes, lists and graph,
which stay pages of the file (IO_FLAG_MMAP does so for IVFFlat alone and reads the others whole).
Opening an HNSW reads its graph once, since Faiss checks that every link leads somewhere. IVFPQ for
L2 would compute lists * m * 256 float32 when it is opened, in the memory of each process, to save
a fifth of a search: it is told not to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import faiss as _faiss
import numpy as np

from actors.shards.holding_out import hold_out
from cluster.arrays import Float32Array, Int64Array, Mask
from cluster.errors import Corrupt
from cluster.query.search import AS_TUNED, SearchEffort
from cluster.shards.index_parameters import EF_SEARCH_MAX, IndexKind, IndexParameters
from cluster.vectors.metric import Metric

# The stubs that Faiss ships lack or contradict half of what is used here.
faiss: Any = _faiss

# Below 20 queries Faiss compares vector by vector, from there on by BLAS, which rounds otherwise.
# So that a query meets the same lists of an IVF alone and in a batch, batches stay below.
_IVF_BATCH = 16
# Scalar quantizers work with vector instructions where the dimension is a multiple of this, and
# otherwise number by number: a search of GloVe (100 numbers) took 760 us, and filled up 280.
_SQ_ALIGNMENT = 16
# Candidates of a search for ten hits, by which a build measures the effort: ten, and the four more
# that `ShardIndex` ranks (its `_SLACK`).
_MEASURED_FOR = 14
# Rows of all beams that are looked through at once.
_BEAM_ELEMENTS = 1 << 18
_OPEN_FLAGS = faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE
_PRODUCTS = faiss.METRIC_INNER_PRODUCT
_CLASSES = {
    IndexKind.FLAT: faiss.IndexFlat,
    IndexKind.IVF_FLAT: faiss.IndexIVFFlat,
    IndexKind.IVF_PQ: faiss.IndexIVFPQ,
    IndexKind.IVF_SQ: faiss.IndexIVFScalarQuantizer,
    IndexKind.HNSW: faiss.IndexHNSWFlat,
    IndexKind.HNSW_SQ: faiss.IndexHNSWSQ,
}

Selector = Any
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


def filled_up(vectors: Float32Array, kind: IndexKind) -> Float32Array:
    """With zeros, which change no product and no distance, to the dimension of the index's file."""
    missing = -vectors.shape[1] % _SQ_ALIGNMENT
    if not missing or kind not in (IndexKind.IVF_SQ, IndexKind.HNSW_SQ):
        return vectors
    return np.pad(vectors, ((0, 0), (0, missing)))


def _ranges(index: Any, kind: IndexKind) -> Float32Array:
    """float32 [d]: how far apart the least and the most of each number were in training; none for
    kinds that do not quantize numbers one by one.
    """
    match kind:
        case IndexKind.IVF_SQ:
            quantizer = index.sq
        case IndexKind.HNSW_SQ:
            quantizer = faiss.downcast_index(index.storage).sq
        case _:
            return np.empty(0, dtype=np.float32)
    trained: Float32Array = faiss.vector_to_array(quantizer.trained)
    return trained[index.d :]


def metric_of(parameters: IndexParameters) -> Any:
    """The measure that Faiss compares by. Of vectors of length one the nearest have the greatest
    products, but a float32 tells distances of 1e-6 apart and products only from 3e-4 on: a graph
    that links by products loses its way among vectors that are nearly equal.
    """
    is_graph_of_directions = parameters.kind.is_graph and parameters.metric is Metric.COSINE
    by_distance = parameters.metric is Metric.L2 or is_graph_of_directions
    return faiss.METRIC_L2 if by_distance else _PRODUCTS


@lru_cache(maxsize=256)
def _hnsw_parameters(beam: int) -> Any:
    """Kept, since making it costs a tenth of a search; Faiss only reads it."""
    return faiss.SearchParametersHNSW(efSearch=beam)


def check_size(path: Path, size_bytes: int) -> None:
    """Raises Corrupt when the file is missing or has another size; to be called before Faiss sees a
    byte of it, for 1.15.1 reads beyond the end of some truncated files.
    """
    found_bytes = path.stat().st_size if path.is_file() else None
    if found_bytes != size_bytes:
        raise Corrupt(f"{path.name} has {found_bytes} bytes instead of {size_bytes}")


def selector_of(mask: Mask) -> Selector:
    """A selector that limits a search to the vectors where `mask` is true. One bit a vector."""
    return faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))


class FaissIndex:
    """An opened index. Searches may run in several threads at once; nothing changes it."""

    def __init__(self, index: Any, parameters: IndexParameters) -> None:
        self._index = index
        self._parameters = parameters
        self._by_distance = index.metric_type == faiss.METRIC_L2
        self.num_vectors: int = index.ntotal
        self.num_lists: int = index.nlist if parameters.kind.has_lists else 1
        self.stored = self._stored_vectors()
        """float32 [num_vectors, d], read-only, in the mapped file; None where the kind keeps no
        whole vectors in the order of their numbers. To be used no longer than the index is open.
        """

    @classmethod
    def open(
        cls,
        path: Path,
        parameters: IndexParameters,
        dimension: int,
        *,
        size_bytes: int,
        num_vectors: int,
        held_out: Int64Array | None = None,
    ) -> Self:
        """Maps the file. Raises Corrupt when it is missing or has another size, or is no index of
        this kind, metric and dimension over so many vectors.

        held_out: numbers of vectors that no search shall find, as if the index had never had them,
        as far as they are among `removable`; the file is read into memory for that.
        """
        check_size(path, size_bytes)
        flags = _OPEN_FLAGS if held_out is None else faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE
        try:
            index = faiss.read_index(str(path), flags)
        except (RuntimeError, MemoryError, ValueError) as error:
            raise Corrupt(f"Faiss cannot read {path.name}: {str(error)[-200:]}") from error
        is_kind = isinstance(index, _CLASSES[parameters.kind])
        # Graphs of earlier versions compare directions by their products.
        is_older = parameters.metric is Metric.COSINE and index.metric_type == _PRODUCTS
        if not is_kind or not (is_older or index.metric_type == metric_of(parameters)):
            raise Corrupt(f"{path.name} is no {parameters.kind} for {parameters.metric}")
        stored = filled_up(np.zeros((1, dimension), np.float32), parameters.kind)
        if index.d != stored.shape[1] or _ranges(index, parameters.kind)[dimension:].any():
            raise Corrupt(f"{path.name} has {index.d} dimensions, not {dimension}")
        if index.ntotal != num_vectors:
            raise Corrupt(f"{path.name} has {index.ntotal} vectors, not {num_vectors}")
        opened = cls(index, parameters)
        if held_out is not None:
            hold_out(index, np.intersect1d(held_out, opened.removable()))
        return opened

    def removable(self) -> Int64Array:
        """int64, ascending: numbers of the vectors that may be held out. Of a graph, those of the
        lowest level alone, which are nearly all and were drawn by lot.
        """
        if not self._parameters.kind.is_graph:
            return np.arange(self.num_vectors)
        return np.flatnonzero(faiss.vector_to_array(self._index.hnsw.levels) == 1)

    def _stored_vectors(self) -> Float32Array | None:
        index = self._index
        if self._parameters.kind is IndexKind.HNSW:
            index = faiss.downcast_index(index.storage)
        elif self._parameters.kind is not IndexKind.FLAT:
            return None
        if not isinstance(index, faiss.IndexFlat) or index.ntotal != self.num_vectors:
            raise Corrupt("the index lacks the vectors that belong to it")
        size = self.num_vectors * index.d
        if size == 0:
            return None
        flat: Float32Array = faiss.rev_swig_ptr(index.get_xb(), size)
        flat.flags.writeable = False
        return flat.reshape(self.num_vectors, index.d)

    def tuned(self, parameters: IndexParameters) -> Self:
        """The same index with other search parameters."""
        return type(self)(self._index, parameters)

    def search(
        self,
        vectors: Float32Array,
        k: int,
        *,
        selector: Selector = None,
        effort: SearchEffort = AS_TUNED,
        stretch: float = 1.0,
    ) -> tuple[Float32Array, Int64Array]:
        """Candidates for float32 [n, d]: scores [n, k] as Faiss compares, higher is better, and
        rows [n, k], padded with -1. Flat returns the best k; the others what they find, looking
        `stretch` times as far as `effort` says, or the index's parameters where it says nothing.

        Raises Corrupt when the index breaks under a search or names a row that it cannot have.
        """
        parameters = self._search_parameters(k, selector, effort, stretch)
        scores, rows = self._search(vectors, k, parameters)
        return (-scores if self._by_distance else scores), rows

    def search_among(
        self,
        vectors: Float32Array,
        k: int,
        contains: Callable[[Int64Array], Mask],
        *,
        effort: SearchEffort,
        stretch: float,
    ) -> tuple[Int64Array, Mask]:
        """Rows of a graph among some, int64 [n, k] best first, padded with -1, and for which
        queries they are as good as those of a search among all: bool [n].

        `contains` says of rows, -1 included, which of them are meant. The whole beam is taken and
        the others are dropped afterwards. A selector inside of Faiss takes twice as long for half
        of the rows, and does not tell when a query's surroundings are gone and the beam saw
        nothing but what must not be returned. Here that shows: the k-th hit then lies in the far
        half of the beam, where a graph misses rows, or beyond it.
        """
        beam = max(k, self._beam(k, effort, stretch))
        rows = np.full((len(vectors), k), -1, dtype=np.int64)
        sure = np.zeros(len(vectors), dtype=np.bool_)
        step = max(1, _BEAM_ELEMENTS // beam)
        for top in range(0, len(vectors), step):
            batch = slice(top, top + step)
            parameters = faiss.SearchParametersHNSW(efSearch=beam)
            _, ranked = self._search(vectors[batch], beam, parameters)
            meant = contains(ranked)
            order = np.argsort(~meant, axis=1, kind="stable")[:, :k]
            good = np.take_along_axis(meant, order, axis=1)
            rows[batch] = np.where(good, np.take_along_axis(ranked, order, axis=1), -1)
            sure[batch] = good[:, -1] & (order[:, -1] < beam // 2)
        return rows, sure

    def _search(
        self, vectors: Float32Array, k: int, parameters: Any
    ) -> tuple[Float32Array, Int64Array]:
        try:
            scores, rows = self._search_in_batches(vectors, k, parameters)
        except RuntimeError as error:
            raise Corrupt(f"Faiss failed in a search: {str(error)[-200:]}") from error
        # Unsigned and one up, -1 is 0, and whatever is below it more than any row.
        beyond = rows.view(np.uint64) + np.uint64(1)
        if np.maximum.reduce(beyond, axis=None, initial=0) > self.num_vectors:
            raise Corrupt("the index names a vector that does not exist")
        return scores, rows

    def _search_in_batches(
        self, vectors: Float32Array, k: int, parameters: Any
    ) -> tuple[Float32Array, Int64Array]:
        vectors = filled_up(vectors, self._parameters.kind)
        if not self._parameters.kind.has_lists or len(vectors) <= _IVF_BATCH:
            scores, rows = self._index.search(vectors, k, params=parameters)
            return scores, rows
        scores = np.empty((len(vectors), k), dtype=np.float32)
        rows = np.empty((len(vectors), k), dtype=np.int64)
        for top in range(0, len(vectors), _IVF_BATCH):
            batch = slice(top, top + _IVF_BATCH)
            scores[batch], rows[batch] = self._index.search(vectors[batch], k, params=parameters)
        return scores, rows

    def _search_parameters(
        self, k: int, selector: Selector, effort: SearchEffort, stretch: float
    ) -> Any:
        chosen = {} if selector is None else {"sel": selector}
        match self._parameters.kind:
            case IndexKind.FLAT:
                return faiss.SearchParameters(**chosen)
            case IndexKind.IVF_FLAT | IndexKind.IVF_PQ | IndexKind.IVF_SQ:
                asked = effort.nprobe or self._parameters.nprobe
                nprobe = min(self._index.nlist, math.ceil(asked * stretch))
                return faiss.SearchParametersIVF(nprobe=nprobe, **chosen)
            case IndexKind.HNSW | IndexKind.HNSW_SQ:
                beam = self._beam(k, effort, stretch)
                if selector is None:
                    return _hnsw_parameters(beam)
                return faiss.SearchParametersHNSW(efSearch=beam, **chosen)

    def _beam(self, k: int, effort: SearchEffort, stretch: float) -> int:
        tuned = self._parameters.ef_search
        if effort.ef_search is not None:
            wanted = max(effort.ef_search, k)
        elif self._parameters.target_recall is not None:
            # It was measured for ten hits. One more candidate for each further one keeps the recall
            # of graphs that were tried (MiniLM; random vectors; up to 100 hits).
            wanted = max(tuned, _MEASURED_FOR) + max(0, k - _MEASURED_FOR)
        else:
            # No wider than k it would return whatever it met.
            wanted = tuned if tuned >= k else 2 * k
        return min(EF_SEARCH_MAX, math.ceil(wanted * stretch))
