"""Which rows of a shard a search may return: those that the filter leaves and nobody deleted."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from actors.faiss_api import FaissIndex, RowSelector, row_selector
from actors.shard_partitions import SCANNED_ROWS_MAX, NamedRows, PartitionIndex, ShardPartitions
from cluster.filters import Filter, filter_key, filter_mask
from cluster.manifests import IndexKind, IndexParameters
from cluster.search import Int64Array

_FILTERS_CACHED_MAX = 64
# Few rows are scanned whatever the index: it takes no longer than a search.
_SCAN_ROWS = 1000

RowMask = npt.NDArray[np.bool_]


def scan_rows_max(index: FaissIndex, parameters: IndexParameters) -> int:
    """So many live rows are scanned, since it is cheaper than to look for them in the index.

    A node of an HNSW's beam costs some three times as much as a scanned row (measured on 100 and
    on 384 dimensions), and the beam must grow with rows / live rows to keep its recall: they meet
    where live rows squared are three times beam times rows (2,800 of 20,000; 6,200 of 100,000). An
    IVF has nothing to choose once it would have to look into every list.
    """
    match parameters.kind:
        case IndexKind.FLAT:
            meet = 0
        case IndexKind.HNSW | IndexKind.HNSW_SQ:
            meet = math.isqrt(3 * parameters.ef_search * index.num_rows)
        case IndexKind.IVF_FLAT | IndexKind.IVF_PQ | IndexKind.IVF_SQ:
            meet = parameters.nprobe * index.num_rows // index.num_lists
    return max(_SCAN_ROWS, meet)


@dataclass(frozen=True, slots=True)
class Selection:
    """Some rows of a shard: listed when they are few, marked when they are many."""

    num_rows: int
    scanned: Int64Array | None
    """The rows themselves where they are few enough to be scanned rather than searched."""
    mask_bits: npt.NDArray[np.uint8] | None = None
    """A bit for each row of the index, and `selector` over them, where they are not."""
    selector: RowSelector = None
    partition: PartitionIndex | None = None
    """Of whose index the rows are marked; None means the shard's."""

    def contains(self, rows: Int64Array) -> RowMask:
        """bool, in the shape of `rows` of the index: which are among these; -1 is not."""
        assert self.mask_bits is not None
        # The byte of row -1 is some byte, and its bit does not count.
        bits = self.mask_bits[rows >> 3] >> (rows & 7).astype(np.uint8)
        contained: RowMask = (rows >= 0) & (bits & 1).astype(np.bool_)
        return contained

    def rows(self) -> Int64Array:
        """int64, ascending, the shard's rows"""
        if self.scanned is not None:
            return self.scanned
        assert self.mask_bits is not None
        rows = np.flatnonzero(np.unpackbits(self.mask_bits, bitorder="little"))
        return rows if self.partition is None else self.partition.in_shard(rows)


class Selections:
    """The selections of a view, kept for the filters that were asked last. Thread-safe."""

    def __init__(
        self,
        metadata: pa.Table,
        live: RowMask | None,
        index: FaissIndex,
        parameters: IndexParameters,
        partitions: ShardPartitions | None,
    ) -> None:
        """live: bool [rows], false where a row is deleted; None when none is."""
        self._metadata = metadata
        self._live = live
        self._parameters = parameters
        self._partitions = partitions
        self._scan_rows_max = scan_rows_max(index, parameters)
        self._unfiltered = None if live is None else self._select(live)
        self._cached: OrderedDict[bytes, Selection] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, filter: Filter | None) -> Selection | None:
        """None means all rows. Raises InvalidArgument for a filter that does not fit the
        metadata.
        """
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
            while len(self._cached) > _FILTERS_CACHED_MAX:
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
        num_live = int(np.count_nonzero(kept))
        if named.index is not None:
            few = num_live <= scan_rows_max(named.index.index, self._parameters)
        else:
            few = num_live <= max(SCANNED_ROWS_MAX, self._scan_rows_max)
        if few:
            return Selection(num_live, named.rows if num_live == len(kept) else named.rows[kept])
        if named.index is not None:
            return _marked(kept, num_live, named.index)
        mask = np.zeros(self._metadata.num_rows, dtype=np.bool_)
        mask[named.rows[kept]] = True
        return _marked(mask, num_live)

    def _select(self, mask: RowMask) -> Selection:
        num_live = int(np.count_nonzero(mask))
        if num_live <= self._scan_rows_max:
            return Selection(num_live, np.flatnonzero(mask))
        return _marked(mask, num_live)


def _marked(mask: RowMask, num_rows: int, partition: PartitionIndex | None = None) -> Selection:
    return Selection(
        num_rows,
        scanned=None,
        mask_bits=np.packbits(mask, bitorder="little"),
        selector=row_selector(mask),
        partition=partition,
    )
