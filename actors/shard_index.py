"""Search inside one shard: an index that proposes rows, and documents that decide between them.

    filter -> mask -> bits inside Faiss, or exact search over few survivors
    Faiss  -> candidates -> scored again from the stored vectors -> (score desc, id asc) -> ids

Guarantees. The score and the order of hits depend on the query's and the rows' vectors alone, not
on batch, threads or processor (see cluster/scoring); what a quantized kind holds of a vector says
which rows are scored, and nothing more. Flat is exact, ties included: candidates whose worst is not
clear of the k-th best are thrown away for an exact scan, so that any number of Flat shards merges
to what one would answer. Every kind returns k hits where k rows match the filter: what an index
misses so far that there are fewer, or that the best of them is weaker than is usual here (where the
index has a fallback), is found by an exact scan for the queries concerned.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from actors.faiss_api import FaissIndex
from actors.shard_documents import DOCUMENTS_FILE, ShardDocuments
from actors.shard_partitions import ShardPartitions
from actors.shard_selection import RowMask, Selection, Selections
from cluster.errors import InvalidArgument
from cluster.manifests import IndexKind, IndexParameters
from cluster.merge import padding
from cluster.scoring import best, error_bound, scan, score_rows
from cluster.search import Float32Array, Int64Array, Passages, ShardHits, ShardQuery
from cluster.vectors import check_lengths, norms

INDEX_FILE = "index.faiss"
# Candidates beyond k: room for near-ties that Faiss orders the other way round.
_SLACK = 4
# All rows are scanned when the caller wants an eighth of them or more.
_SCAN_SHARE = 8


class ShardIndex:
    """A view of one opened shard. Threads may search it at the same time; it never changes.

    How many threads Faiss uses for a batch is the caller's choice (`faiss.omp_set_num_threads`, in
    each thread that searches).
    """

    def __init__(
        self,
        index: FaissIndex,
        documents: ShardDocuments,
        parameters: IndexParameters,
        live: RowMask | None = None,
        partitions: ShardPartitions | None = None,
    ) -> None:
        """live: bool [rows], false where a row is deleted; None when none is."""
        self._index = index
        self._documents = documents
        # Where the index holds the same vectors, a search has just been there: scoring them again
        # from a copy elsewhere would fetch them from memory once more. For scans only the copy in
        # the documents will do: in the index's file the numbers need not lie at multiples of 4.
        stored = index.stored_vectors()
        self._scored = documents.vectors if stored is None else stored
        self._parameters = parameters
        self._live = live
        self._partitions = partitions
        is_coarse = parameters.kind.is_quantized and parameters.kind.has_lists
        self._rescore = parameters.rescore if is_coarse else 1
        self._weak_score = documents.weak_score if parameters.fallback else None
        self.kind = parameters.kind
        self.num_rows = documents.num_rows
        """Rows of the files, deleted ones included."""
        self.num_live = self.num_rows if live is None else int(np.count_nonzero(live))
        self.num_lists = index.num_lists
        self.dimension: int = documents.vectors.shape[1]
        self._selections = Selections(documents.metadata, live, index, parameters, partitions)

    @classmethod
    def open(cls, folder: Path, parameters: IndexParameters, dimension: int) -> Self:
        """Maps `index.faiss`, `documents.arrow` and, where the documents are partitioned,
        `partitions.arrow`; costs milliseconds, reads few pages.

        Raises Corrupt when a file is missing or damaged, or they do not belong together. The
        hashes of the files are for the artifact cache to verify; what slips in here regardless
        must not crash the process.
        """
        documents = ShardDocuments.open(folder / DOCUMENTS_FILE, dimension)
        num_rows = documents.num_rows
        index = FaissIndex.open(
            folder / INDEX_FILE,
            parameters,
            dimension,
            size_bytes=documents.index_size_bytes,
            num_rows=num_rows,
        )
        partitions = None
        if (field := documents.partition_by) is not None:
            partitions = ShardPartitions.open(folder, field, num_rows, dimension, parameters)
        return cls(index, documents, parameters, partitions=partitions)

    def tuned(self, parameters: IndexParameters) -> Self:
        """The same files, searched with other parameters: those of a search, not of the build."""
        partitions = None if self._partitions is None else self._partitions.tuned(parameters)
        index = self._index.tuned(parameters)
        return type(self)(index, self._documents, parameters, self._live, partitions)

    def without_documents(self, documents: Collection[str]) -> Self:
        """The same shard without the passages of these documents; those that it does not have are
        ignored.

        A view costs a bit and a byte a row and shares everything else; this one stays as it is. All
        guarantees hold among the live rows, and as many of them are looked at as if the others had
        never been there: up to half of the rows may be deleted at no loss of recall, at a cost that
        grows with rows / live rows. `passages` still finds deleted rows, for searches that began
        before.
        """
        deleted = self._documents.rows_of(documents)
        live = ~deleted if self._live is None else self._live & ~deleted
        if np.count_nonzero(live) == self.num_live:
            return self
        return type(self)(self._index, self._documents, self._parameters, live, self._partitions)

    def search(self, query: ShardQuery) -> ShardHits:
        """The best hits of each query, padded to `top_k`; exact for Flat and when asked.

        `query.effort` replaces what the index was tuned to, where it names what this kind has.

        Raises InvalidArgument for vectors of another dimension or not finite, top_k below 1, and a
        filter that does not fit the metadata; Corrupt when the index turns out to be damaged.
        """
        vectors = query.vectors
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise InvalidArgument(f"must have {self.dimension} numbers", "vectors")
        if query.top_k < 1:
            raise InvalidArgument("must be at least 1", "top_k")
        check_lengths(vectors)
        selection = self._selections.of(query.filter)
        num_live = self.num_rows if selection is None else selection.num_rows
        k = min(query.top_k, num_live)
        fell_back = np.zeros(len(vectors), dtype=np.bool_)
        if k == 0 or len(vectors) == 0:
            marks = fell_back if self._parameters.fallback else None
            return replace(padding(len(vectors), query.top_k), fell_back=marks)
        if selection is not None and selection.scanned is not None:
            scores, rows = self._scan(vectors, k, selection)
        elif self._parameters.kind is IndexKind.FLAT:
            scores, rows = self._search_flat(vectors, k, num_live, selection)
        elif query.effort.exact or k * _SCAN_SHARE >= num_live:
            scores, rows = self._scan(vectors, k, selection)
        else:
            scores, rows, fell_back = self._search_graph_or_lists(query, k, num_live, selection)
        return self._hits(scores, rows, query.top_k, fell_back)

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
        k: int,
        num_live: int,
        selection: Selection | None,
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
        bound = error_bound(norms(vectors), norm_max, self.dimension)
        reachable = (approximate[:, -1] + bound).astype(np.float32)
        unclear = ~(scores[:, k - 1] > reachable)
        return self._scan_where(unclear, vectors, scores, rows, selection)

    def _search_graph_or_lists(
        self, query: ShardQuery, k: int, num_live: int, selection: Selection | None
    ) -> tuple[Float32Array, Int64Array, RowMask]:
        """Scores, rows, and for which queries they come from a scan."""
        vectors, effort = query.vectors, query.effort
        partition = None if selection is None else selection.partition
        index = self._index if partition is None else partition.index
        width = min(k * self._rescore + _SLACK, num_live)
        # As many live rows are looked at as without a filter: the others are only walked over.
        stretch = index.num_rows / num_live
        doubtful = np.zeros(len(vectors), dtype=np.bool_)
        if selection is None or num_live == index.num_rows:
            _, candidates = index.search(vectors, width, effort=effort)
        elif self.kind.is_graph:
            candidates, sure = index.search_among(
                vectors, width, selection.contains, effort=effort, stretch=stretch
            )
            doubtful |= ~sure
        else:
            _, candidates = index.search(
                vectors, width, selector=selection.selector, effort=effort, stretch=stretch
            )
        if partition is not None:
            candidates = partition.in_shard(candidates)
        scores, rows = self._rank(vectors, candidates, k)
        doubtful |= rows[:, k - 1] < 0
        if self._weak_score is not None:
            doubtful |= scores[:, 0] < self._weak_score
        scores, rows = self._scan_where(doubtful, vectors, scores, rows, selection)
        return scores, rows, doubtful

    def _rank(
        self, vectors: Float32Array, candidates: Int64Array, k: int
    ) -> tuple[Float32Array, Int64Array]:
        scores = score_rows(vectors, self._scored, candidates, self._parameters.metric)
        return best(scores, candidates, k)

    def _scan(
        self, vectors: Float32Array, k: int, selection: Selection | None
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
        selection: Selection | None,
    ) -> tuple[Float32Array, Int64Array]:
        """The hits, with those of doubtful queries replaced by a scan's."""
        if doubtful.any():
            k = scores.shape[1]
            scores[doubtful], rows[doubtful] = self._scan(vectors[doubtful], k, selection)
        return scores, rows

    def _hits(
        self, scores: Float32Array, rows: Int64Array, top_k: int, fell_back: RowMask
    ) -> ShardHits:
        num_queries, width = rows.shape
        if width < top_k:
            missing = padding(num_queries, top_k - width)
            scores = np.concatenate([scores, missing.scores], axis=1)
            rows = np.concatenate([rows, missing.rows], axis=1)
        return ShardHits(
            scores=scores,
            rows=rows,
            ids=self._documents.ids(rows),
            fell_back=fell_back if self._parameters.fallback else None,
        )
