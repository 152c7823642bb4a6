"""Measures what a built shard finds, with any effort.

What an index holds it also finds more easily than anything else. So what is told of it, and what
the effort of its searches is measured by, is found by queries that were held out of it; and where
it has partitions with indexes of their own, by such queries in these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from actors.builds.recall import (
    RECALL_K,
    MeasuredIndex,
    RecallSample,
    sampling_rng,
    without_fallback,
)
from actors.shards.index import ShardIndex
from cluster.arrays import Float32Array, Int64Array
from cluster.query.filters import Filter
from cluster.shards.index_parameters import IndexParameters
from cluster.shards.recall import HELD_OUT, Recall
from cluster.vectors.checks import norms
from cluster.vectors.metric import Metric
from cluster.vectors.scoring import scan

_HELD_OUT_MAX = 400
_HELD_OUT_LEAST = 100
_HELD_OUT_SHARE = 20
_HELD_OUT_SHARE_MOST = 5
"""One vector in twenty is held out: 400 at most, which tells a recall of 0.95 to within 0.01; 100
at least, but no more than one in five.
"""
_PARTITIONS_MAX = 8
_HELD_OUT_OF_PARTITION = 100


@dataclass(frozen=True, slots=True)
class ShardRecall:
    """The files of a shard, and queries that they are asked."""

    known: MeasuredIndex
    """The shard, with queries from what it holds."""
    held_out: MeasuredIndex
    """The shard without the vectors of all queries that were held out, with such queries for the
    whole of it.
    """
    in_partitions: tuple[MeasuredIndex, ...]
    """The same, with queries for one partition each, some of those that have an index of their own.
    """

    @classmethod
    def open(cls, folder: Path, vectors: Float32Array, parameters: IndexParameters) -> Self:
        """A shard that was built with these parameters over these vectors: float32 [rows, d], as
        it stores them. Raises what `ShardIndex.open` does.
        """
        own = without_fallback(parameters)
        index = ShardIndex.open(folder, own, vectors.shape[1])
        removable = index.removable_rows()
        rng = sampling_rng(own)
        rows = _drawn(rng, removable, _HELD_OUT_MAX, _HELD_OUT_LEAST)
        partitions = [
            (filter, part, _drawn(rng, np.intersect1d(part, removable), _HELD_OUT_OF_PARTITION))
            for filter, part in _some_partitions(rng, index)
        ]
        lost = np.unique(np.concatenate([rows, *(drawn for _, _, drawn in partitions)]))

        def sample(drawn: Int64Array, among: Int64Array, filter: Filter | None) -> RecallSample:
            queries, left = vectors[drawn], np.setdiff1d(among, lost, assume_unique=True)
            exact = _best_scores(queries, vectors, left, own.metric)
            return RecallSample.of({HELD_OUT: queries}, exact, filter)

        without = ShardIndex.open(folder, own, vectors.shape[1], held_out=lost)
        in_partitions = tuple(
            MeasuredIndex(without, sample(drawn, part, filter))
            for filter, part, drawn in partitions
        )
        for part in in_partitions:
            # Opens its index, which is in memory then for every effort that is tried.
            part.recall(own)
        return cls(
            known=MeasuredIndex(index, RecallSample.of_rows(index, vectors, own)),
            held_out=MeasuredIndex(without, sample(rows, index.distinct_rows(), None)),
            in_partitions=in_partitions,
        )

    def at(self, parameters: IndexParameters) -> Recall:
        """The recall with the effort of these parameters; its strata are of all queries."""
        known, new = self.known.recall(parameters), self.held_out.recall(parameters)
        return new.model_copy(update={"strata": known.strata + new.strata})

    def reaches(self, parameters: IndexParameters, target: float) -> bool:
        """True when as much as `target` is found: surely on average of all that were held out; in
        each stratum of the others; and in each partition.
        """
        return (
            self.held_out.recall(parameters).surely_reaches(target)
            and self.known.recall(parameters).least >= target
            and all(part.recall(parameters).recall_at_10 >= target for part in self.in_partitions)
        )


def _drawn(rng: np.random.Generator, rows: Int64Array, most: int, least: int = 0) -> Int64Array:
    """Some of the rows, drawn by lot; ascending."""
    least = min(least, len(rows) // _HELD_OUT_SHARE_MOST)
    size = min(most, max(least, len(rows) // _HELD_OUT_SHARE))
    return np.sort(rng.choice(rows, size=size, replace=False))


def _some_partitions(
    rng: np.random.Generator, index: ShardIndex
) -> Iterator[tuple[Filter, Int64Array]]:
    """Some of those with an index of their own: the filter for each, and the first row of each of
    its vectors.
    """
    partitions = index.indexed_partitions()
    chosen = rng.permutation(len(partitions))[:_PARTITIONS_MAX]
    yield from (partitions[number] for number in chosen.tolist())


def _best_scores(
    queries: Float32Array, vectors: Float32Array, rows: Int64Array, metric: Metric
) -> Float32Array:
    """float32 [n, 10]: the scores of the best of these rows, padded with -inf."""
    scores = np.full((len(queries), RECALL_K), -np.inf, dtype=np.float32)
    if k := min(RECALL_K, len(rows)):
        norm_max = float(norms(vectors).max())
        scores[:, :k], _ = scan(queries, vectors, rows, k, metric, norm_max)
    return scores
