"""`index: auto`: which kind of index, and how hard it has to look, by measuring.

Every kind is built over a sample and asked for rows that it holds and for rows that were held out,
with growing effort, until it finds the share of the exact ten best that is wanted, in each stratum
of them (`actors.builds.recall`). The cheapest one within the memory is taken.

A sample is smaller than a shard, so what was measured is scaled to the rows of a shard: Flat
compares with all of them, lists keep the share of the rows that they look at (and so a `nprobe`
that grows with the lists), a graph grows by the logarithm. What that leaves uncertain is the effort
that the whole takes; so that is measured again on the built shards, as with a named kind
(`actors.builds.shard`).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from actors.builds.efforts import least_effort, most_effort
from actors.builds.recall import MeasuredIndex, RecallSample, exact_scores
from actors.builds.shard import ShardRows
from actors.shards.faiss_build import num_lists, num_subquantizers, train_index
from actors.shards.faiss_index import one_thread
from actors.shards.index import INDEX_FILE, ShardIndex
from cluster.arrays import Float32Array
from cluster.clock import SYSTEM_CLOCK
from cluster.errors import InvalidArgument
from cluster.query.search import ShardQuery
from cluster.shards.index_parameters import AutoIndex, IndexKind, IndexParameters, IndexTrial
from cluster.shards.recall import HELD_OUT, STORED

SAMPLE_ROWS_MAX = 20_000
_QUERIES_MAX = 400
_BATCH = 16
_TOP_K = 10
_REPETITIONS = 5
_GRAPH_LINKS = (16, 32)
_NUMBERS_PER_CODE = (4, 8)
_NEAR = 1.1
"""Kinds that take so many times the least are as quick, as far as can be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """The size of the data that the index will be built over."""

    num_rows: int
    num_shards: int

    @property
    def rows_per_shard(self) -> int:
        return max(1, math.ceil(self.num_rows / self.num_shards))


def candidates(asked: AutoIndex, dimension: int) -> tuple[IndexParameters, ...]:
    """The kinds that are tried, each with the parameters of its build."""
    plain = IndexParameters(
        kind=IndexKind.FLAT, metric=asked.metric, fallback=asked.fallback, seed=asked.seed
    )
    lists = [
        plain.model_copy(update={"kind": kind}) for kind in (IndexKind.IVF_FLAT, IndexKind.IVF_SQ)
    ]
    subquantizers = {num_subquantizers(dimension, None, numbers) for numbers in _NUMBERS_PER_CODE}
    codes = [
        plain.model_copy(update={"kind": IndexKind.IVF_PQ, "pq_m": m})
        for m in sorted(subquantizers, reverse=True)
    ]
    graphs = [
        plain.model_copy(update={"kind": kind, "hnsw_m": links})
        for kind in (IndexKind.HNSW, IndexKind.HNSW_SQ)
        for links in _GRAPH_LINKS
    ]
    return (plain, *lists, *codes, *graphs)


def try_index(
    sample: Float32Array, built: IndexParameters, target_recall: float, extent: Extent
) -> IndexTrial:
    """Builds over the sample and finds the least effort that reaches the recall; all there is where
    none does. One thread.

    sample: float32 [n, d], prepared for the metric, in an order that means nothing; what is more
    than `SAMPLE_ROWS_MAX` is left out.
    """
    sample = sample[:SAMPLE_ROWS_MAX]
    # The recall that is wanted is the index's own.
    fallback = built.fallback
    built = built.model_copy(update={"fallback": False})
    num_queries = max(1, min(_QUERIES_MAX, len(sample) // 5))
    queries = sample[:num_queries]
    rows = sample[num_queries:] if len(sample) > 1 else sample
    ids = pa.array([f"{i:08}" for i in range(len(rows))])
    table = pa.table({"id": ids, "document": ids, "text": ids})
    with tempfile.TemporaryDirectory() as scratch, one_thread():
        folder = Path(scratch)
        trained = train_index(rows, built, len(rows))
        ShardRows.of(table, rows, built.metric, None).write(folder, built, trained)
        size_bytes = (folder / INDEX_FILE).stat().st_size
        index = ShardIndex.open(folder, built, rows.shape[1])
        stored = rows[:num_queries]
        exact = exact_scores(index, np.concatenate([stored, queries]))
        measured = MeasuredIndex(index, RecallSample.of({STORED: stored, HELD_OUT: queries}, exact))

        def suffices(tried: IndexParameters) -> bool:
            recall = measured.recall(tried)
            return recall.least >= target_recall and not recall.has_hole

        parameters = least_effort(built, index.num_lists, suffices)
        parameters = parameters or most_effort(built, index.num_lists)
        recall = measured.recall(parameters)
        query_us = _query_us(index.tuned(parameters), queries)
    scale = _Scale(len(rows), index.num_lists, extent, parameters, fallback)
    return IndexTrial(
        parameters=scale.parameters(),
        recall_at_10=recall.recall_at_10,
        recall_at_10_least=recall.least,
        query_us=query_us * scale.work(),
        memory_bytes=scale.memory_bytes(size_bytes, len(trained or b"")),
    )


def choose(trials: Sequence[IndexTrial], asked: AutoIndex) -> tuple[IndexTrial, ...]:
    """The trials, the cheapest that reaches the recall within the memory marked as chosen; of
    kinds that are as quick, the smallest. Where none reaches it, the one that comes nearest.

    Raises InvalidArgument when no kind fits into the memory.
    """
    limit = asked.memory_bytes_max
    fitting = [t for t in trials if limit is None or t.memory_bytes <= limit]
    if not fitting:
        least = min(t.memory_bytes for t in trials)
        raise InvalidArgument(
            f"no kind fits: the smallest index takes {least} bytes; raise it",
            "index.memory_bytes_max",
        )
    good = [t for t in fitting if _reached(t) >= asked.target_recall]
    if good:
        least_us = min(t.query_us for t in good)
        near = [t for t in good if t.query_us <= _NEAR * least_us]
        best = min(near, key=lambda t: t.memory_bytes)
    else:
        best = max(fitting, key=_reached)
    return tuple(t.model_copy(update={"is_chosen": t is best}) for t in trials)


def _reached(trial: IndexTrial) -> float:
    assert trial.recall_at_10_least is not None
    return trial.recall_at_10_least


def _query_us(index: ShardIndex, queries: Float32Array) -> float:
    """The least of a few times: the others were disturbed."""
    took_s = []
    for _ in range(_REPETITIONS):
        started_s = SYSTEM_CLOCK.monotonic_s()
        for top in range(0, len(queries), _BATCH):
            batch = np.ascontiguousarray(queries[top : top + _BATCH])
            index.search(ShardQuery(corpus="", index_version="", vectors=batch, top_k=_TOP_K))
        took_s.append(SYSTEM_CLOCK.monotonic_s() - started_s)
    return 1e6 * min(took_s) / len(queries)


@dataclass(frozen=True, slots=True)
class _Scale:
    """From the sample to a shard."""

    num_rows: int
    num_lists: int
    extent: Extent
    measured: IndexParameters
    fallback: bool

    @property
    def _more_lists(self) -> float:
        return num_lists(self.extent.rows_per_shard, self.measured.nlist) / self.num_lists

    def parameters(self) -> IndexParameters:
        update: dict[str, object] = {"fallback": self.fallback}
        if self.measured.kind.has_lists:
            update["nprobe"] = max(1, math.ceil(self.measured.nprobe * self._more_lists))
        return self.measured.model_copy(update=update)

    def work(self) -> float:
        rows = self.extent.rows_per_shard
        match self.measured.kind:
            case IndexKind.FLAT:
                return rows / self.num_rows
            case IndexKind.HNSW | IndexKind.HNSW_SQ:
                return math.log(rows + 2) / math.log(self.num_rows + 2)
            case IndexKind.IVF_FLAT | IndexKind.IVF_PQ | IndexKind.IVF_SQ:
                share = self.measured.nprobe / self.num_lists
                there = share * rows + self._more_lists * self.num_lists
                return there / (share * self.num_rows + self.num_lists)

    def memory_bytes(self, size_bytes: int, trained_bytes: int) -> int:
        """The memory of an index over all rows, from the size of the file over the sample and
        the size of its part that was there before the first row.
        """
        by_rows = (size_bytes - trained_bytes) / self.num_rows * self.extent.num_rows
        return round(by_rows + trained_bytes * self._more_lists * self.extent.num_shards)
