"""Preparation of a build on one sample of the whole corpus: the choice of kind and parameters, if
the settings leave it to the build, and the training of centroids and code books for all shards.

Centroids and code books come from one sample, so that every shard cuts the space the same way:
equal lists everywhere. A query then looks into the same cells of every shard, a candidate is held
as exactly in one shard as in another, and a small shard is trained as well as a large one.

Which rows are drawn is decided by the hash of their ids, so the same corpus gives the same sample
whatever the order of its blocks. A passage that a later part replaces may be drawn: nothing is
returned from the sample, and to find out would take a shuffle of the corpus.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from actors.builds.shard import ShardPlan
from actors.builds.tuning import SAMPLE_ROWS_MAX, Extent, candidates, choose, try_index
from actors.shards.faiss_build import train_index
from actors.shards.vector_rows import vector_numbers
from cluster.arrays import Float32Array
from cluster.catalog.corpus_settings import CorpusSettings
from cluster.documents.passages import vector_column, vectors_of
from cluster.shards.index_parameters import (
    AutoIndex,
    IndexKind,
    IndexParameters,
    IndexTrial,
    IndexTuning,
    NamedIndex,
)
from cluster.vectors.checks import prepared
from cluster.vectors.metric import Metric

_FLOATS_MAX = 1 << 26
"""256 MB of float32: what a task and the driver are given of a sample."""
_ROWS_PER_LIST = 64
"""Training points for each centroid. Faiss wants 39 at least, and uses up to 256."""
_ROWS_PER_CODE_BOOK = 1 << 16
_ROWS_PER_RANGE = 1 << 16
"""Rows from which the least and the most of each number are known well enough."""
_HASH_MAX = 1 << 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedBuild:
    passages: ray.data.Dataset
    shard_plan: ShardPlan
    tuning: IndexTuning | None


def prepare_build(
    passages: ray.data.Dataset, settings: CorpusSettings, total: int, dimension: int
) -> PreparedBuild:
    """passages: with the columns `id`, `part` (the higher one counts where an id occurs twice) and
    `vector`; read, and embedded, only once.

    Raises InvalidArgument when no kind fits into the memory that the settings allow.
    """
    extent = Extent(num_rows=total, num_shards=settings.shards)
    asked = settings.index
    num_rows = _rows_needed(asked, dimension, extent)
    if num_rows:
        passages = passages.materialize()
        sample = ray.put(draw_sample(passages, num_rows, total, asked.metric))
    tuning = trained = None
    if isinstance(asked, AutoIndex):
        tuning = _tuned(sample, asked, dimension, extent)
        chosen = next(trial.parameters for trial in tuning.trials if trial.is_chosen)
        parameters = chosen.model_copy(update={"target_recall": asked.target_recall})
    else:
        parameters = asked.parameters
    if num_rows:
        train = ray.remote(train_index)
        trained = ray.get(train.remote(sample, parameters, extent.rows_per_shard))
    plan = ShardPlan(parameters, trained=trained, partition_by=settings.partition_by)
    return PreparedBuild(passages=passages, shard_plan=plan, tuning=tuning)


def _rows_needed(asked: NamedIndex | AutoIndex, dimension: int, extent: Extent) -> int:
    if isinstance(asked, NamedIndex):
        tried: tuple[IndexParameters, ...] = (asked.parameters,)
        rows = 0
    else:
        tried = candidates(asked, dimension)
        rows = SAMPLE_ROWS_MAX
    for parameters in tried:
        if parameters.kind.has_lists:
            lists = parameters.nlist or round(4 * extent.rows_per_shard**0.5)
            rows = max(rows, _ROWS_PER_LIST * lists)
        if parameters.kind is IndexKind.IVF_PQ:
            rows = max(rows, _ROWS_PER_CODE_BOOK)
        if parameters.kind is IndexKind.HNSW_SQ:
            rows = max(rows, _ROWS_PER_RANGE)
    return min(rows, _FLOATS_MAX // dimension, extent.num_rows)


def _tuned(
    sample: ray.ObjectRef[Float32Array], asked: AutoIndex, dimension: int, extent: Extent
) -> IndexTuning:
    attempt = ray.remote(try_index)
    trials: list[IndexTrial] = ray.get(
        [
            attempt.remote(sample, parameters, asked.target_recall, extent)
            for parameters in candidates(asked, dimension)
        ]
    )
    rows_sampled = min(SAMPLE_ROWS_MAX, extent.num_rows)
    return IndexTuning(asked=asked, rows_sampled=rows_sampled, trials=choose(trials, asked))


def draw_sample(
    passages: ray.data.Dataset, num_rows: int, total: int, metric: Metric
) -> Float32Array:
    """float32 [m, d], prepared for the metric: the distinct vectors of as many of the `total`
    passages as asked for, or of all; in the order of their hashes.
    """
    # Six standard deviations above what is wanted, so that no more than wanted are too few.
    expected = num_rows + 6 * num_rows**0.5 + 16
    drawn = passages.map_batches(
        _Drawing(min(1.0, expected / max(1, total))).draw,
        batch_format="pyarrow",
        zero_copy_batch=True,
    )
    tables: list[pa.Table] = ray.get(drawn.to_arrow_refs())
    table = pa.concat_tables(table for table in tables if table.num_rows)
    vectors = vectors_of(table)[_first(table, num_rows)]
    vectors = prepared(vectors, metric)
    _, firsts = np.unique(vector_numbers(vectors), return_index=True)
    return vectors[firsts]


@dataclass(frozen=True, slots=True)
class _Drawing:
    share: float

    def draw(self, batch: Any) -> pa.Table:
        passages: pa.Table = batch
        ids: list[Any] = passages["id"].to_pylist()
        hashes = np.array([_hash(id) for id in ids], dtype=np.uint64)
        sampled = np.flatnonzero(hashes <= np.float64(self.share) * _HASH_MAX)
        drawn = passages.select(["id", "part"]).take(sampled)
        drawn = drawn.append_column("hash", pa.array(hashes[sampled]))
        return drawn.append_column("vector", vector_column(vectors_of(passages)[sampled]))


def _first(table: pa.Table, num_rows: int) -> list[int]:
    """The rows with the lowest hashes, one for each id: that of the latest part."""
    hashes, parts = table["hash"].to_numpy(), table["part"].to_numpy()
    ids: list[Any] = table["id"].to_pylist()
    latest: dict[str, int] = {}
    for row in np.lexsort((parts, hashes)).tolist():
        latest[ids[row]] = row
    return list(latest.values())[:num_rows]


def _hash(id: str) -> int:
    # Told apart from the hash that picks the shard, or the sample would be of some shards only.
    digest = hashlib.blake2b(id.encode(), digest_size=8, person=b"sample")
    return int.from_bytes(digest.digest())
