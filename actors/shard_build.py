"""Building one shard: `index.faiss` over its distinct vectors, `documents.arrow`, where rows share
vectors `vector_rows.arrow`, and where they are partitioned `partitions.arrow` and the indexes of
large partitions.

A build is reproducible: rows are ordered by id, Faiss is seeded and works on one thread, so equal
input makes equal bytes, and the artifacts of an unchanged shard are found by their hashes. One
thread costs little, since shards are built side by side: 20,000 x 384 into an HNSW takes some 20 s
on one busy core and 16 s on two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from actors.faiss_api import one_thread, write_index
from actors.shard_documents import DOCUMENTS_FILE, META_PREFIX, sorted_by_id, write_documents
from actors.shard_index import INDEX_FILE, ShardIndex
from actors.shard_partitions import write_partitions
from actors.vector_rows import VECTOR_ROWS_FILE, SharedVectors, vector_rows
from cluster.manifests import IndexParameters
from cluster.search import Float32Array, Int64Array, SearchEffort, ShardQuery
from cluster.vectors import check_norms, norms, prepared

_SAMPLE_ROWS_MAX = 200
_RECALL_K = 10
_PERTURBATION = 0.1
_WEAK_QUANTILE = 0.01
_STRETCHES = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardBuild:
    num_rows: int
    recall_at_10: float
    """Share of the exact ten best that the index finds, over a sample of perturbed rows."""
    stretch: int
    """What `IndexParameters.stretched` takes to find that share."""


def build_shard(
    table: pa.Table,
    vectors: Float32Array,
    parameters: IndexParameters,
    folder: Path,
    trained: bytes | None = None,
    target_recall: float = 0.0,
    partition_by: str | None = None,
) -> ShardBuild:
    """Writes the files into the existing `folder` and measures the index that it wrote.

    table: the columns `id`, `document` and `text` (strings) and `meta.{field}` for each metadata
    field; vectors: float32 [n, d], row i for row i of the table, d >= 1, n may be 0. For cosine the
    stored vectors are normalised. trained: from `train_index`, what the shards of an index version
    have in common; None trains a kind that needs it on these vectors. Where the parameters miss
    `target_recall`, it is found out how far a search has to be stretched to reach it. partition_by:
    a metadata field of strings or integers.

    Raises InvalidArgument for vectors that are not finite, unfit ids, too much text and a `pq_m`
    that does not divide d; ValueError for ids that occur twice and for tables that do not fit the
    vectors.
    """
    check_norms(norms(vectors))
    table, vectors = sorted_by_id(table, vectors)
    # Plus zero, which turns -0.0 into 0.0, so that equal vectors have equal bytes.
    vectors = prepared(vectors, parameters.metric) + np.float32(0.0)
    shared = vector_rows(vectors)
    index_path, documents_path = folder / INDEX_FILE, folder / DOCUMENTS_FILE
    write_index(
        vectors if shared.firsts is None else vectors[shared.firsts],
        parameters,
        index_path,
        trained,
    )
    if isinstance(shared, SharedVectors):
        shared.write(folder / VECTOR_ROWS_FILE)
    if partition_by is not None:
        values = table.column(META_PREFIX + partition_by)
        write_partitions(values, partition_by, vectors, shared, parameters, folder)
    write = partial(
        write_documents,
        table,
        vectors,
        index_size_bytes=index_path.stat().st_size,
        num_vectors=None if shared.firsts is None else len(shared.firsts),
        partition_by=partition_by,
    )
    write(documents_path)
    with one_thread():
        index = ShardIndex.open(folder, parameters, vectors.shape[1])
        if parameters.fallback:
            # Beside the file that is mapped, and in its place afterwards.
            written = folder / f"{DOCUMENTS_FILE}.new"
            weak = _weak_score(index, vectors, parameters)
            write(written, weak_score=weak)
            written.replace(documents_path)
        query = perturbed_rows(vectors, np.arange(len(vectors)), parameters)
        for stretch in _STRETCHES:
            stretched = index.tuned(parameters.stretched(stretch))
            recall = recall_at_10(stretched, query)
            if recall >= target_recall:
                break
    return ShardBuild(num_rows=len(vectors), recall_at_10=recall, stretch=stretch)


def recall_at_10(index: ShardIndex, queries: Float32Array) -> float:
    """Of the exact ten best of each query, the share that the index finds.

    queries: float32 [n, d], prepared for the metric.
    """
    query = ShardQuery(corpus="", index_version="", vectors=queries, top_k=_RECALL_K)
    wanted = index.search(replace(query, effort=SearchEffort(exact=True))).scores
    num_wanted = np.isfinite(wanted).sum()
    if num_wanted == 0:
        return 1.0
    found = index.search(query).scores
    # Scores rather than ids are compared: one of several equal rows is as good as another.
    good = found >= wanted.min(axis=1, where=np.isfinite(wanted), initial=np.inf)[:, None]
    return float((good & np.isfinite(found)).sum() / num_wanted)


def _weak_score(index: ShardIndex, vectors: Float32Array, parameters: IndexParameters) -> float:
    """The score that the tenth hit of a query reaches, but for one query in a hundred, when stored
    vectors ask for others like them. Of a query that belongs here the best hit is seldom weaker.

    The build's own fallback is off as yet: the scores are those that the index finds by itself.
    """
    rows = _sampled(len(vectors), _rng(parameters))
    query = ShardQuery(corpus="", index_version="", vectors=vectors[rows], top_k=_RECALL_K + 1)
    hits = index.search(query)
    # Each finds itself, which says nothing, unless the index missed it: then the last is left out.
    itself = hits.rows == rows[:, None]
    itself[~itself.any(axis=1), -1] = True
    tenths = hits.scores[~itself].reshape(len(rows), _RECALL_K)[:, -1]
    known = tenths[np.isfinite(tenths)]
    return float(np.quantile(known, _WEAK_QUANTILE, method="lower")) if known.size else -np.inf


def _rng(parameters: IndexParameters) -> np.random.Generator:
    return np.random.default_rng(parameters.seed & 0x7FFFFFFF)


def _sampled(num_rows: int, rng: np.random.Generator) -> Int64Array:
    return rng.choice(num_rows, size=min(_SAMPLE_ROWS_MAX, num_rows), replace=False)


def perturbed_rows(
    vectors: Float32Array, rows: Int64Array, parameters: IndexParameters
) -> Float32Array:
    """float32 [m, d]: some of these rows, moved a little so that no row is its own query."""
    rng = _rng(parameters)
    sample = vectors[rows[_sampled(len(rows), rng)]]
    scale = _PERTURBATION * norms(sample)[:, None] / np.sqrt(sample.shape[1])
    moved = (sample + scale * rng.standard_normal(sample.shape)).astype(np.float32)
    return prepared(moved, parameters.metric)
