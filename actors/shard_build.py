"""Building one shard: `index.faiss` and `documents.arrow` in the same row order.

A build is reproducible: rows are ordered by id, Faiss is seeded and works on one thread, so equal
input makes equal bytes, and the artifacts of an unchanged shard are found by their hashes. One
thread costs little, since shards are built side by side: 20,000 x 384 into an HNSW takes some 20 s
on one busy core and 16 s on two.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from actors.faiss_api import one_thread, write_index
from actors.shard_documents import DOCUMENTS_FILE, sorted_by_id, write_documents
from actors.shard_index import INDEX_FILE, ShardIndex
from cluster.manifests import IndexParameters
from cluster.search import Float32Array, ShardQuery
from cluster.vectors import check_norms, norms, prepared

_SAMPLE_ROWS_MAX = 200
_RECALL_K = 10
_PERTURBATION = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardBuild:
    num_rows: int
    recall_at_10: float
    """Share of the exact ten best that the index finds, over a sample of perturbed rows."""


def build_shard(
    table: pa.Table, vectors: Float32Array, parameters: IndexParameters, folder: Path
) -> ShardBuild:
    """Writes both files into the existing `folder` and measures the index that it wrote.

    table: the columns `id`, `document` and `text` (strings) and `meta.{field}` for each metadata
    field; vectors: float32 [n, d], row i for row i of the table, d >= 1, n may be 0. For cosine the
    stored vectors are normalised.

    Raises InvalidArgument for vectors that are not finite, unfit ids and too much text; ValueError
    for ids that occur twice and for tables that do not fit the vectors.
    """
    check_norms(norms(vectors))
    table, vectors = sorted_by_id(table, vectors)
    vectors = prepared(vectors, parameters.metric)
    index_path = folder / INDEX_FILE
    write_index(vectors, parameters, index_path)
    write_documents(
        table,
        vectors,
        folder / DOCUMENTS_FILE,
        index_size_bytes=index_path.stat().st_size,
    )
    with one_thread():
        recall = _recall(ShardIndex.open(folder, parameters, vectors.shape[1]), vectors, parameters)
    return ShardBuild(num_rows=len(vectors), recall_at_10=recall)


def _recall(index: ShardIndex, vectors: Float32Array, parameters: IndexParameters) -> float:
    """Asks for near neighbours of sampled rows, moved a little so that no row is its own query."""
    if len(vectors) == 0:
        return 1.0
    rng = np.random.default_rng(parameters.seed & 0x7FFFFFFF)
    size = min(_SAMPLE_ROWS_MAX, len(vectors))
    sample = vectors[rng.choice(len(vectors), size=size, replace=False)]
    scale = _PERTURBATION * norms(sample)[:, None] / np.sqrt(sample.shape[1])
    moved = (sample + scale * rng.standard_normal(sample.shape)).astype(np.float32)
    query = ShardQuery(
        corpus="", index_version="", vectors=prepared(moved, parameters.metric), top_k=_RECALL_K
    )
    wanted = index.search(query, exact=True).scores
    found = index.search(query).scores
    # Scores rather than ids are compared: one of several equal rows is as good as another.
    good = found >= wanted.min(axis=1, where=np.isfinite(wanted), initial=np.inf)[:, None]
    return float((good & np.isfinite(found)).sum() / np.isfinite(wanted).sum())
