"""Which rows of a shard a search may return: those that the filter leaves and nobody deleted."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from actors.faiss_api import RowSelector, row_selector
from cluster.filters import Filter, filter_mask, filter_to_json
from cluster.search import Int64Array

_FILTERS_CACHED_MAX = 64

RowMask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Selection:
    """Some rows of a shard."""

    num_rows: int
    selector: RowSelector
    mask_bits: npt.NDArray[np.uint8]
    scanned: Int64Array | None
    """The rows themselves where they are few enough to be scanned rather than searched."""

    def contains(self, rows: Int64Array) -> RowMask:
        """bool, in the shape of `rows`: which are among these; -1 is not."""
        # The byte of row -1 is some byte, and its bit does not count.
        bits = self.mask_bits[rows >> 3] >> (rows & 7).astype(np.uint8)
        contained: RowMask = (rows >= 0) & (bits & 1).astype(np.bool_)
        return contained

    def rows(self) -> Int64Array:
        if self.scanned is not None:
            return self.scanned
        return np.flatnonzero(np.unpackbits(self.mask_bits, bitorder="little"))


class Selections:
    """The selections of a view, kept for the filters that were asked last. Thread-safe."""

    def __init__(self, metadata: pa.Table, live: RowMask | None, scan_rows_max: int) -> None:
        """live: bool [rows], false where a row is deleted; None when none is."""
        self._metadata = metadata
        self._live = live
        self._scan_rows_max = scan_rows_max
        self._unfiltered = None if live is None else self._select(live)
        self._cached: OrderedDict[bytes, Selection] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._cached)

    def of(self, filter: Filter | None) -> Selection | None:
        """None means all rows. Raises InvalidArgument for a filter that does not fit the
        metadata.
        """
        if filter is None:
            return self._unfiltered
        # The tree is no key: Python holds 1, 1.0 and True for equal, and columns tell them apart.
        key = orjson.dumps(filter_to_json(filter))
        with self._lock:
            cached = self._cached.get(key)
            if cached is not None:
                self._cached.move_to_end(key)
                return cached
        mask = filter_mask(filter, self._metadata)
        selection = self._select(mask if self._live is None else mask & self._live)
        with self._lock:
            self._cached[key] = selection
            while len(self._cached) > _FILTERS_CACHED_MAX:
                self._cached.popitem(last=False)
        return selection

    def _select(self, mask: RowMask) -> Selection:
        num_live = int(np.count_nonzero(mask))
        return Selection(
            num_rows=num_live,
            selector=row_selector(mask),
            mask_bits=np.packbits(mask, bitorder="little"),
            scanned=np.flatnonzero(mask) if num_live <= self._scan_rows_max else None,
        )
