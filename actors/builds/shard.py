"""Building one shard: `index.faiss` over its distinct vectors, `documents.arrow`, where rows share
vectors `vector_rows.arrow`, and where they are partitioned `partitions.arrow` and the indexes of
large partitions.

A build is reproducible: rows are ordered by id, Faiss is seeded and works on one thread, so equal
input makes equal bytes, and the artifacts of an unchanged shard are found by their hashes. One
thread costs little, since shards are built side by side: 20,000 x 384 into an HNSW takes some 20 s
on one busy core and 16 s on two.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa

from actors.builds.efforts import least_effort
from actors.builds.recall import RECALL_K, sampling_rng
from actors.builds.shard_recall import ShardRecall
from actors.shards.documents import DOCUMENTS_FILE, sorted_by_id, write_documents
from actors.shards.faiss_build import write_index
from actors.shards.faiss_index import one_thread
from actors.shards.index import INDEX_FILE, ShardIndex
from actors.shards.partitions import INDEX_FOLDER, write_partitions
from actors.shards.vector_rows import VECTOR_ROWS_FILE, SharedVectors, VectorRows, vector_rows
from cluster.arrays import Float32Array
from cluster.documents.passages import META_PREFIX
from cluster.query.search import ShardQuery
from cluster.shards.index_parameters import IndexKind, IndexParameters
from cluster.shards.recall import Recall
from cluster.vectors.checks import check_norms, norms, prepared
from cluster.vectors.metric import Metric

_WEAK_ROWS_MAX = 200
_WEAK_QUANTILE = 0.01
_STRETCHES = (1, 2, 4, 8)
_ALL_FOUND = Recall(recall_at_10=1.0)
"""Recall of Flat, which needs no measuring: it compares with every vector."""


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What all shards of an index version have in common."""

    parameters: IndexParameters
    trained: bytes | None = None
    """Result of `train_index`; None trains a kind that needs it on the shard's own vectors."""
    partition_by: str | None = None
    """A metadata field of strings or integers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardBuild:
    num_rows: int
    parameters: IndexParameters
    """Those of the plan, with the effort of a search; of the kind Flat where the kind that was
    asked for would have found too little."""
    recall: Recall
    """Share of the exact ten best that the shard finds so; see `actors.builds.shard_recall`."""

    @property
    def kind(self) -> IndexKind:
        return self.parameters.kind


def build_shard(
    table: pa.Table, vectors: Float32Array, plan: ShardPlan, folder: Path
) -> ShardBuild:
    """Writes the files into the existing `folder` and measures the index that it wrote.

    table: the columns `id`, `document` and `text` (strings) and `meta.{field}` for each metadata
    field; vectors: float32 [n, d], row i for row i of the table, d >= 1, n may be 0. For cosine the
    stored vectors are normalised.

    Where the parameters have a `target_recall`, it is measured with how little effort a search
    reaches that and finds nowhere much less than on average. Where they have none, their effort is
    multiplied only if a search finds much less somewhere. Where no effort is enough, the shard is
    built as Flat, which finds all.

    Raises InvalidArgument for vectors that are not finite, unfit ids, too much text and a `pq_m`
    that does not divide d; ValueError for ids that occur twice and for tables that do not fit the
    vectors.
    """
    parameters = plan.parameters
    rows = ShardRows.of(table, vectors, parameters.metric, plan.partition_by)
    vectors = rows.vectors
    rows.write(folder, parameters, plan.trained)
    if parameters.kind is not IndexKind.FLAT:
        with one_thread():
            measured = ShardRecall.open(folder, vectors, parameters)
            searched = measured_effort(measured, parameters)
        if searched is not None:
            return ShardBuild(
                num_rows=len(vectors), parameters=searched, recall=measured.at(searched)
            )
        # Its files are about to be replaced.
        del measured
        shutil.rmtree(folder / INDEX_FOLDER, ignore_errors=True)
        parameters = parameters.model_copy(update={"kind": IndexKind.FLAT})
        rows.write(folder, parameters, None)
    return ShardBuild(num_rows=len(vectors), parameters=parameters, recall=_ALL_FOUND)


def measured_effort(measured: ShardRecall, parameters: IndexParameters) -> IndexParameters | None:
    """The parameters with the least effort that is enough; None where none is."""
    enough, target = parameters, parameters.target_recall
    if target is not None:

        def suffices(tried: IndexParameters) -> bool:
            return measured.reaches(tried, target)

        found = least_effort(parameters, measured.known.index.num_lists, suffices)
        if found is None:
            return None
        enough = found
    efforts = (enough.stretched(stretch) for stretch in _STRETCHES)
    return next((tried for tried in efforts if not measured.known.recall(tried).has_hole), None)


@dataclass(frozen=True, slots=True)
class ShardRows:
    """The data from which the files of a shard are written, in row order."""

    table: pa.Table
    vectors: Float32Array
    """float32 [n, d], as they are stored"""
    shared: VectorRows
    partition_by: str | None

    @classmethod
    def of(
        cls, table: pa.Table, vectors: Float32Array, metric: Metric, partition_by: str | None
    ) -> Self:
        """Takes and raises what `build_shard` does."""
        check_norms(norms(vectors))
        table, vectors = sorted_by_id(table, vectors)
        vectors = prepared(vectors, metric)
        # Zero turns -0.0 into 0.0, so that equal vectors have equal bytes; added in place, since
        # these are copies already.
        vectors += np.float32(0.0)
        return cls(table, vectors, vector_rows(vectors), partition_by)

    def write(self, folder: Path, parameters: IndexParameters, trained: bytes | None) -> None:
        """Writes them all; see `build_shard`."""
        shared, vectors = self.shared, self.vectors
        index_path, documents_path = folder / INDEX_FILE, folder / DOCUMENTS_FILE
        distinct = vectors if shared.firsts is None else vectors[shared.firsts]
        write_index(distinct, parameters, index_path, trained)
        if isinstance(shared, SharedVectors):
            shared.write(folder / VECTOR_ROWS_FILE)
        if self.partition_by is not None:
            values = self.table.column(META_PREFIX + self.partition_by)
            write_partitions(values, self.partition_by, vectors, shared, parameters, folder)
        write = partial(
            write_documents,
            self.table,
            vectors,
            index_size_bytes=index_path.stat().st_size,
            num_vectors=None if shared.firsts is None else len(shared.firsts),
            partition_by=self.partition_by,
        )
        write(documents_path)
        if parameters.fallback:
            with one_thread():
                index = ShardIndex.open(folder, parameters, vectors.shape[1])
                weak = _weak_score(index, vectors, parameters)
            # Beside the file that is mapped, and in its place afterwards.
            written = folder / f"{DOCUMENTS_FILE}.new"
            write(written, weak_score=weak)
            written.replace(documents_path)


def _weak_score(index: ShardIndex, vectors: Float32Array, parameters: IndexParameters) -> float:
    """The score that the tenth hit of a query reaches, but for one query in a hundred, when stored
    vectors ask for others like them. Of a query that belongs here the best hit is seldom weaker.

    The index has no such score as yet, so the scores are those that it finds by itself.
    """
    rows = index.distinct_rows()
    size = min(_WEAK_ROWS_MAX, len(rows))
    rows = sampling_rng(parameters).choice(rows, size=size, replace=False)
    query = ShardQuery(corpus="", index_version="", vectors=vectors[rows], top_k=RECALL_K + 1)
    hits = index.search_distinct(query)
    # Each finds itself, which says nothing, unless the index missed it: then the last is left out.
    itself = hits.rows == rows[:, None]
    itself[~itself.any(axis=1), -1] = True
    tenths = hits.scores[~itself].reshape(len(rows), RECALL_K)[:, -1]
    known = tenths[np.isfinite(tenths)]
    return float(np.quantile(known, _WEAK_QUANTILE, method="lower")) if known.size else -np.inf
