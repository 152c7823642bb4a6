"""The rows of a shard that a search may return: those that match the filter and are not deleted."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from actors.shards.faiss_index import FaissIndex, Selector, selector_of
from actors.shards.partitions import SCANNED_ROWS_MAX, NamedRows, ShardPartitions
from actors.shards.vector_rows import Bits, IndexedVectors, VectorRows, marked
from cluster.arrays import Int64Array, Mask
from cluster.query.filters import Filter, filter_key
from cluster.shards.filter_mask import filter_mask
from cluster.shards.index_parameters import IndexKind, IndexParameters

FILTERS_CACHED_MAX = 64
# Few vectors are scanned whatever the index: it takes no longer than a search.
_SCANNED = 1000


def scanned_max(index: FaissIndex, parameters: IndexParameters) -> int:
    """Number of live vectors up to which a scan is cheaper than a search of the index.

    A node of an HNSW's beam costs some three times as much as a scanned vector (measured on 100 and
    on 384 dimensions), and the beam must grow with vectors / live vectors to keep its recall: they
    meet where live vectors squared are three times beam times vectors (2,800 of 20,000; 6,200 of
    100,000). An IVF has nothing to choose once it would have to look into every list.
    """
    match parameters.kind:
        case IndexKind.FLAT:
            meet = 0
        case IndexKind.HNSW | IndexKind.HNSW_SQ:
            meet = math.isqrt(3 * parameters.ef_search * index.num_vectors)
        case IndexKind.IVF_FLAT | IndexKind.IVF_PQ | IndexKind.IVF_SQ:
            meet = parameters.nprobe * index.num_vectors // index.num_lists
    return max(_SCANNED, meet)


@dataclass(frozen=True, slots=True)
class Selection:
    """Some rows of a shard, and the vectors of an index that have them: these are listed when they
    are few, marked when they are many.
    """

    indexed: IndexedVectors
    """The shard's index, or that of a partition in which the rows are."""
    num_rows: int
    num_vectors: int
    """Number of distinct vectors."""
    live: Bits | None = None
    """A bit for each row of the shard; None: all rows that have the vectors are selected."""
    scanned: Int64Array | None = None
    """The first selected row of each vector, where those are few enough to be scanned rather than
    searched.
    """
    vector_bits: Bits | None = None
    """A bit for each vector of the index, and `selector` over them, where they are not."""
    selector: Selector = None

    def contains(self, numbers: Int64Array) -> Mask:
        """bool, in the shape of `numbers` of vectors: which are among these; -1 is not."""
        assert self.vector_bits is not None
        return marked(self.vector_bits, numbers)

    def first_rows(self, shared: VectorRows) -> Int64Array | None:
        """int64, ascending: the first selected row of each vector; None where those are all rows of
        the shard. `shared` is the shard's.
        """
        if self.scanned is not None:
            return self.scanned
        if self.live is not None:
            return shared.first_rows(_set_bits(self.live))
        if self.vector_bits is not None:
            return self.indexed.rows_of(_set_bits(self.vector_bits))
        return shared.firsts


class Selections:
    """The selections of a view, kept for the filters that were asked last. Thread-safe."""

    def __init__(
        self,
        metadata: pa.Table,
        live: Mask | None,
        indexed: IndexedVectors,
        shared: VectorRows,
        parameters: IndexParameters,
        partitions: ShardPartitions | None,
    ) -> None:
        """live: bool [rows], false where a row is deleted; None when none is."""
        self._metadata = metadata
        self._live = live
        self._indexed = indexed
        self._shared = shared
        self._parameters = parameters
        self._partitions = partitions
        self._scanned_max = scanned_max(indexed.index, parameters)
        self._all = Selection(indexed, metadata.num_rows, indexed.index.num_vectors)
        self._unfiltered = self._all if live is None else self._select(live)
        self._cached: OrderedDict[bytes, Selection] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, filter: Filter | None) -> Selection:
        """Raises InvalidArgument for a filter that does not fit the metadata."""
        if filter is None:
            return self._unfiltered
        key = filter_key(filter)
        with self._lock:
            cached = self._cached.get(key)
            if cached is not None:
                self._cached.move_to_end(key)
                return cached
        selection = self._of_filter(filter)
        with self._lock:
            self._cached[key] = selection
            while len(self._cached) > FILTERS_CACHED_MAX:
                self._cached.popitem(last=False)
        return selection

    def _of_filter(self, filter: Filter) -> Selection:
        named = None if self._partitions is None else self._partitions.named(filter)
        if named is not None:
            return self._of_partitions(named)
        mask = filter_mask(filter, self._metadata)
        return self._select(mask if self._live is None else mask & self._live)

    def _of_partitions(self, named: NamedRows) -> Selection:
        """Looks at the rows of the partitions alone."""
        kept = np.ones(len(named.rows), dtype=np.bool_)
        if named.rest is not None:
            kept &= filter_mask(named.rest, self._metadata.take(named.rows))
        if self._live is not None:
            kept &= self._live[named.rows]
        rows = named.rows[kept]
        firsts = self._shared.first_rows(rows)
        if named.indexed is not None:
            few_max = scanned_max(named.indexed.index, self._parameters)
        else:
            few_max = max(SCANNED_ROWS_MAX, self._scanned_max)
        if len(firsts) <= few_max:
            return self._scanned(rows, firsts)
        mask = np.zeros(self._metadata.num_rows, dtype=np.bool_)
        mask[rows] = True
        return self._marked(mask, named.indexed or self._indexed)

    def _select(self, mask: Mask) -> Selection:
        num_vectors = np.count_nonzero(self._shared.with_rows(mask))
        if num_vectors <= self._scanned_max:
            rows = np.flatnonzero(mask)
            return self._scanned(rows, self._shared.first_rows(rows))
        return self._marked(mask, self._indexed)

    def _scanned(self, rows: Int64Array, first_rows: Int64Array) -> Selection:
        return Selection(
            self._indexed,
            num_rows=len(rows),
            num_vectors=len(first_rows),
            live=self._shared.live_bits(rows),
            scanned=first_rows,
        )

    def _marked(self, mask: Mask, indexed: IndexedVectors) -> Selection:
        vectors = self._shared.with_rows(mask)
        if indexed is not self._indexed:
            assert indexed.rows is not None
            vectors = vectors[self._shared.numbers_of(indexed.rows)]
        return Selection(
            indexed,
            num_rows=int(np.count_nonzero(mask)),
            num_vectors=int(np.count_nonzero(vectors)),
            live=self._shared.live_bits(mask),
            vector_bits=np.packbits(vectors, bitorder="little"),
            selector=selector_of(vectors),
        )


def _set_bits(bits: Bits) -> Int64Array:
    """int64, ascending: the indexes of the bits that are set."""
    return np.flatnonzero(np.unpackbits(bits, bitorder="little"))
