"""Search inside one shard: an index that proposes rows, and documents that decide between them.

    filter -> mask -> bits inside Faiss, or exact search over few survivors
    Faiss  -> candidates -> scored again from the stored vectors -> (score desc, id asc) -> ids

Guarantees. The score and the order of hits depend on the query's and the rows' vectors alone, not
on batch, threads or processor (see cluster/scoring). Flat is exact, ties included: candidates whose
worst is not clear of the k-th best are thrown away for an exact scan, so that any number of Flat
shards merges to what one would answer. Every kind returns k hits where k rows match the filter.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import orjson

from actors.faiss_api import FaissIndex, RowSelector, num_lists, row_selector
from actors.shard_documents import DOCUMENTS_FILE, ShardDocuments
from cluster.errors import Corrupt, InvalidArgument
from cluster.filters import Filter, filter_mask, filter_to_json
from cluster.manifests import IndexKind, IndexParameters
from cluster.merge import padding
from cluster.scoring import best, error_bound, scan, score_rows
from cluster.search import Float32Array, Int64Array, Passages, ShardHits, ShardQuery
from cluster.vectors import Float64Array, check_norms, norms

INDEX_FILE = "index.faiss"
# Candidates beyond k: room for near-ties that Faiss orders the other way round.
_SLACK = 4
# Few rows are scanned whatever the index: it takes no longer than a search.
_SCAN_ROWS = 1000
# So are all when the caller wants an eighth of them or more.
_SCAN_SHARE = 8
_FILTERS_CACHED_MAX = 64


@dataclass(frozen=True, slots=True)
class _Selection:
    """The rows that a filter leaves."""

    num_rows: int
    selector: RowSelector
    mask_bits: npt.NDArray[np.uint8]
    scanned: Int64Array | None
    """The rows themselves where they are few enough to be scanned rather than searched."""

    def rows(self) -> Int64Array:
        if self.scanned is not None:
            return self.scanned
        return np.flatnonzero(np.unpackbits(self.mask_bits, bitorder="little"))


class ShardIndex:
    """One opened shard. Threads may search it at the same time; it never changes.

    How many threads Faiss uses for a batch is the caller's choice (`faiss.omp_set_num_threads`, in
    each thread that searches).
    """

    def __init__(
        self, index: FaissIndex, documents: ShardDocuments, parameters: IndexParameters
    ) -> None:
        self._index = index
        self._documents = documents
        self._parameters = parameters
        self._selections: OrderedDict[bytes, _Selection] = OrderedDict()
        self._selections_lock = threading.Lock()
        self.num_rows = documents.num_rows
        self.dimension: int = documents.vectors.shape[1]

    @classmethod
    def open(cls, folder: Path, parameters: IndexParameters, dimension: int) -> Self:
        """Maps `index.faiss` and `documents.arrow`; costs milliseconds, reads few pages.

        Raises Corrupt when a file is missing or damaged, or the two do not belong together. The
        hashes of the files are for the artifact cache to verify; what slips in here regardless
        must not crash the process, so the index's size is compared before Faiss sees a byte of it
        (Faiss 1.15.1 reads beyond the end of some truncated files).
        """
        documents = ShardDocuments.open(folder / DOCUMENTS_FILE, dimension)
        index_path = folder / INDEX_FILE
        size_bytes = index_path.stat().st_size if index_path.is_file() else None
        if size_bytes != documents.index_size_bytes:
            raise Corrupt(
                f"{INDEX_FILE} has {size_bytes} bytes instead of {documents.index_size_bytes}"
            )
        index = FaissIndex.open(index_path, parameters, dimension)
        if index.num_rows != documents.num_rows:
            raise Corrupt(
                f"{INDEX_FILE} has {index.num_rows} rows, {DOCUMENTS_FILE} {documents.num_rows}"
            )
        return cls(index, documents, parameters)

    def search(self, query: ShardQuery, *, exact: bool = False) -> ShardHits:
        """The best hits of each query, padded to `top_k`; exact for Flat and when asked.

        Raises InvalidArgument for vectors of another dimension or not finite, top_k below 1, and a
        filter that does not fit the metadata; Corrupt when the index turns out to be damaged.
        """
        vectors = query.vectors
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise InvalidArgument(f"must have {self.dimension} numbers", "vectors")
        if query.top_k < 1:
            raise InvalidArgument("must be at least 1", "top_k")
        query_norms = norms(vectors)
        check_norms(query_norms)
        selection = None if query.filter is None else self._selection(query.filter)
        num_live = self.num_rows if selection is None else selection.num_rows
        k = min(query.top_k, num_live)
        if k == 0 or len(vectors) == 0:
            return padding(len(vectors), query.top_k)
        if selection is not None and selection.scanned is not None:
            scores, rows = self._scan(vectors, k, selection)
        elif self._parameters.kind is IndexKind.FLAT:
            scores, rows = self._search_flat(vectors, query_norms, k, num_live, selection)
        elif exact or k * _SCAN_SHARE >= num_live:
            scores, rows = self._scan(vectors, k, selection)
        else:
            scores, rows = self._search_graph_or_lists(vectors, k, num_live, selection)
        return self._hits(scores, rows, query.top_k)

    def passages(
        self, rows: Sequence[int] | Int64Array, fields: tuple[str, ...] | None
    ) -> Passages:
        """Texts and metadata of `rows`, in their order; all metadata fields when `fields` is None.

        Raises IndexError for a row that does not exist, InvalidArgument for an unknown field.
        """
        return self._documents.passages(rows, fields)

    def _search_flat(
        self,
        vectors: Float32Array,
        query_norms: Float64Array,
        k: int,
        num_live: int,
        selection: _Selection | None,
    ) -> tuple[Float32Array, Int64Array]:
        width = min(k + _SLACK, num_live)
        selector = None if selection is None else selection.selector
        approximate, candidates = self._index.search(vectors, width, selector=selector)
        scores, rows = self._rank(vectors, candidates, k)
        if width == num_live:
            return scores, rows
        # No row outside of the candidates can score more than this, so a k-th score above it
        # stands.
        norm_max = self._documents.norm_max
        bound = error_bound(query_norms, norm_max, self.dimension)
        reachable = (approximate[:, -1] + bound).astype(np.float32)
        unclear = ~(scores[:, k - 1] > reachable)
        return self._scan_where(unclear, vectors, scores, rows, selection)

    def _search_graph_or_lists(
        self, vectors: Float32Array, k: int, num_live: int, selection: _Selection | None
    ) -> tuple[Float32Array, Int64Array]:
        width = min(k + _SLACK, num_live)
        if selection is None:
            _, candidates = self._index.search(vectors, width)
        else:
            # As many live rows are looked at as without a filter: the others are only walked over.
            effort = self.num_rows / num_live
            _, candidates = self._index.search(
                vectors, width, selector=selection.selector, effort=effort
            )
        scores, rows = self._rank(vectors, candidates, k)
        return self._scan_where(rows[:, k - 1] < 0, vectors, scores, rows, selection)

    def _rank(
        self, vectors: Float32Array, candidates: Int64Array, k: int
    ) -> tuple[Float32Array, Int64Array]:
        stored = self._documents.vectors
        return best(score_rows(vectors, stored, candidates, self._parameters.metric), candidates, k)

    def _scan(
        self, vectors: Float32Array, k: int, selection: _Selection | None
    ) -> tuple[Float32Array, Int64Array]:
        rows = None if selection is None else selection.rows()
        documents = self._documents
        metric = self._parameters.metric
        return scan(vectors, documents.vectors, rows, k, metric, documents.norm_max)

    def _scan_where(
        self,
        doubtful: npt.NDArray[np.bool_],
        vectors: Float32Array,
        scores: Float32Array,
        rows: Int64Array,
        selection: _Selection | None,
    ) -> tuple[Float32Array, Int64Array]:
        """The hits, with those of doubtful queries replaced by a scan's."""
        if doubtful.any():
            k = scores.shape[1]
            scores[doubtful], rows[doubtful] = self._scan(vectors[doubtful], k, selection)
        return scores, rows

    def _hits(self, scores: Float32Array, rows: Int64Array, top_k: int) -> ShardHits:
        num_queries, width = rows.shape
        if width < top_k:
            missing = padding(num_queries, top_k - width)
            scores = np.concatenate([scores, missing.scores], axis=1)
            rows = np.concatenate([rows, missing.rows], axis=1)
        return ShardHits(scores=scores, rows=rows, ids=self._documents.ids(rows))

    def _selection(self, filter: Filter) -> _Selection:
        # The tree is no key: Python holds 1, 1.0 and True for equal, and columns tell them apart.
        key = orjson.dumps(filter_to_json(filter))
        with self._selections_lock:
            cached = self._selections.get(key)
            if cached is not None:
                self._selections.move_to_end(key)
                return cached
        mask = filter_mask(filter, self._documents.metadata)
        num_live = int(np.count_nonzero(mask))
        selection = _Selection(
            num_rows=num_live,
            selector=row_selector(mask),
            mask_bits=np.packbits(mask, bitorder="little"),
            scanned=np.flatnonzero(mask) if self._is_scanned(num_live) else None,
        )
        with self._selections_lock:
            self._selections[key] = selection
            while len(self._selections) > _FILTERS_CACHED_MAX:
                self._selections.popitem(last=False)
        return selection

    def _is_scanned(self, num_live: int) -> bool:
        """Whether exact search over the live rows is the cheaper way.

        On 384 dimensions a scanned row costs some 0.2 us, and a filtered HNSW some 2 us for each
        node of its beam, which must grow with rows / live rows to keep its recall: they meet where
        live rows squared are ten times beam times rows (5,000 of 20,000; 11,000 of 100,000). An IVF
        has nothing to choose once it would have to look into every list.
        """
        if num_live <= _SCAN_ROWS:
            return True
        match self._parameters.kind:
            case IndexKind.FLAT:
                return False
            case IndexKind.HNSW:
                return num_live**2 <= 10 * self._parameters.ef_search * self.num_rows
            case IndexKind.IVF_FLAT:
                lists = num_lists(self.num_rows, self._parameters.nlist)
                return num_live * lists <= self._parameters.nprobe * self.num_rows
