"""Search inside one shard: an index that proposes rows, and documents that decide between them.

    filter -> mask -> bits inside Faiss, or exact search over few survivors
    Faiss  -> candidates -> scored again from the stored vectors -> the rows that share the best
           -> (score desc, id asc) -> ids

Guarantees. The score and the order of hits depend on the query's and the rows' vectors alone, not
on batch, threads or processor (see `cluster.vectors.scoring`); what a quantized kind holds of a
vector says which rows are scored, and nothing more. Flat is exact, ties included: candidates whose
worst is not clear of the k-th best are thrown away for an exact scan, so that any number of Flat
shards merges to what one would answer. Rows with equal vectors share one in the index, and come in
the order of their ids, the first of them where not all are wanted. Every kind returns k hits where
k rows match the filter: what an index misses so far that there are fewer, or that the best of them
is weaker than is usual here (where the index has a fallback), is found by an exact scan for the
queries concerned.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np

from actors.shards.documents import DOCUMENTS_FILE, ShardDocuments
from actors.shards.faiss_index import FaissIndex
from actors.shards.partitions import ShardPartitions
from actors.shards.selection import Selection, Selections
from actors.shards.vector_rows import (
    VECTOR_ROWS_FILE,
    IndexedVectors,
    OneRowEach,
    SharedVectors,
    VectorRows,
)
from cluster.arrays import Float32Array, Int64Array, Mask
from cluster.errors import InvalidArgument
from cluster.query.filters import Filter
from cluster.query.search import Passages, ShardHits, ShardQuery
from cluster.shards.index_parameters import IndexKind, IndexParameters
from cluster.shards.merge import padding
from cluster.vectors.checks import check_lengths, norms
from cluster.vectors.scoring import best, error_bound, scan, score_rows

INDEX_FILE = "index.faiss"
# Candidates beyond k: room for near-ties that Faiss orders the other way round.
_SLACK = 4
# All vectors are scanned when the caller wants an eighth as many rows or more.
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
        shared: VectorRows,
        parameters: IndexParameters,
        live: Mask | None = None,
        partitions: ShardPartitions | None = None,
    ) -> None:
        """live: bool [rows], false where a row is deleted; None when none is."""
        self._index = index
        self._documents = documents
        self._shared = shared
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
        self._selections = Selections(
            documents.metadata,
            live,
            IndexedVectors(index, shared.firsts),
            shared,
            parameters,
            partitions,
        )

    @classmethod
    def open(
        cls,
        folder: Path,
        parameters: IndexParameters,
        dimension: int,
        *,
        held_out: Int64Array | None = None,
    ) -> Self:
        """Maps `index.faiss`, `documents.arrow` and, where there are such, `vector_rows.arrow` and
        `partitions.arrow`; costs milliseconds, reads few pages.

        held_out: rows whose vectors the index shall not find, as if it had never had them; the
        index is read into memory for that. They are among `removable_rows`. Scans do find them.

        Raises Corrupt when a file is missing or damaged, or they do not belong together. The
        hashes of the files are for the artifact cache to verify; what slips in here regardless
        must not crash the process.
        """
        documents = ShardDocuments.open(folder / DOCUMENTS_FILE, dimension)
        num_rows = documents.num_rows
        shared: VectorRows = OneRowEach()
        if documents.num_vectors is not None:
            shared = SharedVectors.open(folder / VECTOR_ROWS_FILE, num_rows)
        index = FaissIndex.open(
            folder / INDEX_FILE,
            parameters,
            dimension,
            size_bytes=documents.index_size_bytes,
            num_vectors=num_rows if shared.firsts is None else len(shared.firsts),
            held_out=None if held_out is None else shared.numbers_of(held_out),
        )
        partitions = None
        if (field := documents.partition_by) is not None:
            partitions = ShardPartitions.open(
                folder, field, num_rows, shared, parameters, dimension, held_out
            )
        return cls(index, documents, shared, parameters, partitions=partitions)

    def tuned(self, parameters: IndexParameters) -> Self:
        """The same files, searched with other parameters: those of a search, not of the build."""
        partitions = None if self._partitions is None else self._partitions.tuned(parameters)
        index = self._index.tuned(parameters)
        return type(self)(index, self._documents, self._shared, parameters, self._live, partitions)

    def without_documents(self, documents: Collection[str]) -> Self:
        """The same shard without the passages of these documents; those that it does not have are
        ignored.

        A view costs a bit and a byte a row and shares everything else; this one stays as it is. All
        guarantees hold among the live rows, and as many of them are looked at as if the others had
        never been there: up to half of the rows may be deleted at no loss of recall, at a cost that
        grows with rows / live rows. `passages` still finds deleted rows, for searches that began
        before.
        """
        return self.among(~self._documents.rows_of(documents))

    def among(self, rows: Mask) -> Self:
        """The same as `without_documents`, without the rows that are false in `rows`, bool
        [num_rows].
        """
        live = rows if self._live is None else self._live & rows
        if np.count_nonzero(live) == self.num_live:
            return self
        return type(self)(
            self._index, self._documents, self._shared, self._parameters, live, self._partitions
        )

    def rows_of_document(self, document: str) -> list[int]:
        """The rows of a document's passages, ascending; none where the shard does not have it."""
        return self._documents.rows_of_document(document)

    def search(self, query: ShardQuery) -> ShardHits:
        """The best hits of each query, padded to `top_k`; exact for Flat and when asked.

        `query.effort` replaces what the index was tuned to, where it names what this kind has.

        Raises InvalidArgument for vectors of another dimension or not finite, top_k below 1, and a
        filter that does not fit the metadata; Corrupt when the index turns out to be damaged.
        """
        selection = self._selection_of(query)
        k = min(query.top_k, selection.num_rows)
        if k == 0 or len(query.vectors) == 0:
            return self._nothing(query)
        scores, rows, fell_back = self._best_vectors(query, selection)
        scores, rows = self._shared.in_rows(scores, rows, k, selection.live)
        return self._hits(scores, rows, query.top_k, fell_back)

    def search_distinct(self, query: ShardQuery) -> ShardHits:
        """Same as `search`, but over distinct vectors, each as one hit: a row that has it."""
        selection = self._selection_of(query)
        if selection.num_vectors == 0 or len(query.vectors) == 0:
            return self._nothing(query)
        scores, rows, fell_back = self._best_vectors(query, selection)
        return self._hits(scores[:, : query.top_k], rows[:, : query.top_k], query.top_k, fell_back)

    def distinct_rows(self) -> Int64Array:
        """int64, ascending: the first live row of each distinct vector."""
        rows = self._selections.of(None).first_rows(self._shared)
        return np.arange(self.num_rows) if rows is None else rows

    def removable_rows(self) -> Int64Array:
        """int64, ascending: the first row of each vector that may be held out."""
        numbers = self._index.removable()
        return numbers if self._shared.firsts is None else self._shared.firsts[numbers]

    def indexed_partitions(self) -> list[tuple[Filter, Int64Array]]:
        """The partitions with an index of their own: the filter for each, and the first row of each
        of its vectors.
        """
        return [] if self._partitions is None else self._partitions.indexed()

    def passages(
        self, rows: Sequence[int] | Int64Array, fields: tuple[str, ...] | None
    ) -> Passages:
        """Texts and metadata of `rows`, in their order; all metadata fields when `fields` is None.

        Raises IndexError for a row that does not exist, InvalidArgument for an unknown field.
        """
        return self._documents.passages(rows, fields)

    def _selection_of(self, query: ShardQuery) -> Selection:
        vectors = query.vectors
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise InvalidArgument(f"must have {self.dimension} numbers", "vectors")
        if query.top_k < 1:
            raise InvalidArgument("must be at least 1", "top_k")
        check_lengths(vectors)
        return self._selections.of(query.filter)

    def _nothing(self, query: ShardQuery) -> ShardHits:
        num_queries = len(query.vectors)
        marks = np.zeros(num_queries, dtype=np.bool_) if self._parameters.fallback else None
        return replace(padding(num_queries, query.top_k), fell_back=marks)

    def _best_vectors(
        self, query: ShardQuery, selection: Selection
    ) -> tuple[Float32Array, Int64Array, Mask]:
        """The best vectors of each query, as many as rows are asked for or all that are selected:
        scores, the row that each stands for, and for which queries they come from a scan that the
        index made necessary.

        The order is (score descending, row ascending), padded with -inf and -1. So many vectors
        have all of the best rows: a row of another one would come after a row of each of them.
        """
        vectors = query.vectors
        k = min(query.top_k, selection.num_vectors)
        fell_back = np.zeros(len(vectors), dtype=np.bool_)
        is_flat = self.kind is IndexKind.FLAT
        wants_all = k * _SCAN_SHARE >= selection.num_vectors
        if selection.scanned is not None or (not is_flat and (query.effort.exact or wants_all)):
            return (*self._scan(vectors, k, selection), fell_back)
        if is_flat:
            return (*self._search_flat(vectors, k, selection), fell_back)
        return self._search_graph_or_lists(query, k, selection)

    def _search_flat(
        self, vectors: Float32Array, k: int, selection: Selection
    ) -> tuple[Float32Array, Int64Array]:
        index = selection.indexed.index
        width = min(k + _SLACK, selection.num_vectors)
        approximate, candidates = index.search(vectors, width, selector=selection.selector)
        scores, rows = self._rank(vectors, candidates, selection)
        if width == selection.num_vectors:
            return scores, rows
        # No vector outside of the candidates can score more than this, so a k-th score above it
        # stands.
        norm_max = self._documents.norm_max
        bound = error_bound(norms(vectors), norm_max, self.dimension)
        reachable = (approximate[:, -1] + bound).astype(np.float32)
        unclear = ~(scores[:, k - 1] > reachable)
        return self._scan_where(unclear, vectors, k, scores, rows, selection)

    def _search_graph_or_lists(
        self, query: ShardQuery, k: int, selection: Selection
    ) -> tuple[Float32Array, Int64Array, Mask]:
        vectors, effort = query.vectors, query.effort
        index, num_live = selection.indexed.index, selection.num_vectors
        width = min(k * self._rescore + _SLACK, num_live)
        # As many live vectors are looked at as without a filter: the others are only walked over.
        stretch = index.num_vectors / num_live
        doubtful = np.zeros(len(vectors), dtype=np.bool_)
        if num_live == index.num_vectors:
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
        scores, rows = self._rank(vectors, candidates, selection)
        doubtful |= rows[:, k - 1] < 0
        if self._weak_score is not None:
            doubtful |= scores[:, 0] < self._weak_score
        scores, rows = self._scan_where(doubtful, vectors, k, scores, rows, selection)
        return scores, rows, doubtful

    def _rank(
        self, vectors: Float32Array, candidates: Int64Array, selection: Selection
    ) -> tuple[Float32Array, Int64Array]:
        rows = selection.indexed.rows_of(candidates)
        # Where the index holds the same vectors, a search has just been there: scoring them again
        # from a copy elsewhere would fetch them from memory once more. For scans only the copy in
        # the documents will do: in the index's file the numbers need not lie at multiples of 4.
        stored, indexes = selection.indexed.index.stored, candidates
        if stored is None:
            stored, indexes = self._documents.vectors, rows
        scores = score_rows(vectors, stored, indexes, self._parameters.metric)
        return best(scores, rows, rows.shape[1])

    def _scan(
        self, vectors: Float32Array, k: int, selection: Selection
    ) -> tuple[Float32Array, Int64Array]:
        rows = selection.first_rows(self._shared)
        documents = self._documents
        metric = self._parameters.metric
        return scan(vectors, documents.vectors, rows, k, metric, documents.norm_max)

    def _scan_where(
        self,
        doubtful: Mask,
        vectors: Float32Array,
        k: int,
        scores: Float32Array,
        rows: Int64Array,
        selection: Selection,
    ) -> tuple[Float32Array, Int64Array]:
        """The best vectors, with those of doubtful queries replaced by the k best of a scan."""
        if doubtful.any():
            scores[doubtful], rows[doubtful] = -np.inf, -1
            scanned = self._scan(vectors[doubtful], k, selection)
            scores[doubtful, :k], rows[doubtful, :k] = scanned
        return scores, rows

    def _hits(
        self, scores: Float32Array, rows: Int64Array, top_k: int, fell_back: Mask
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
