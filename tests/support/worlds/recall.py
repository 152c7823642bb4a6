"""What an index finds of the exact answers to some queries."""

from __future__ import annotations

from actors.builds.recall import RecallSample, exact_scores
from actors.shards.index import ShardIndex
from cluster.arrays import Float32Array
from cluster.shards.recall import HELD_OUT


def recall_at_10(index: ShardIndex, queries: Float32Array) -> float:
    """On average over the queries, which are prepared for the metric."""
    exact = exact_scores(index, queries)
    return RecallSample.of({HELD_OUT: queries}, exact).recall(index).recall_at_10
