"""The merge over shards: which of the shards' best hits are the best of all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cluster.arrays import BytesArray, Float32Array, Int64Array
from cluster.query.search import MergedHits, ShardHits


def merge_hits(shard_hits: Sequence[tuple[int, ShardHits]], top_k: int) -> MergedHits:
    """The best `top_k` of all shards (number, hits), by (score descending, id ascending).

    Guarantee: the result does not depend on the order of the shards, since an id is in one shard
    only. A shard's hits may be narrower or wider than `top_k`; what is missing is padded. Without
    shards the number of queries is unknown, and the result has none.
    """
    num_queries = shard_hits[0][1].scores.shape[0] if shard_hits else 0
    hits = [one for _, one in shard_hits]
    missing = top_k - sum(one.scores.shape[1] for one in hits)
    numbers = [shard for shard, _ in shard_hits]
    if missing > 0:
        hits.append(padding(num_queries, missing))
        numbers.append(-1)
    scores = np.concatenate([one.scores for one in hits], axis=1)
    rows = np.concatenate([one.rows for one in hits], axis=1)
    ids = np.concatenate([one.ids for one in hits], axis=1)
    order = _order(scores, ids, top_k)
    line = np.arange(num_queries)[:, None]
    merged_rows: Int64Array = rows[line, order]
    column_shards = np.array(numbers, dtype=np.int32).repeat([h.scores.shape[1] for h in hits])
    shards = column_shards[order]
    shards[merged_rows < 0] = -1
    return MergedHits(
        scores=scores[line, order], rows=merged_rows, ids=ids[line, order], shards=shards
    )


def padding(num_queries: int, width: int) -> ShardHits:
    """Hits that are none: score -inf, row -1, empty id."""
    return ShardHits(
        scores=np.full((num_queries, width), -np.inf, dtype=np.float32),
        rows=np.full((num_queries, width), -1, dtype=np.int64),
        ids=np.zeros((num_queries, width), dtype="S1"),
    )


def _order(scores: Float32Array, ids: BytesArray, top_k: int) -> Int64Array:
    """int64 [n, top_k]: the columns of each line's best hits.

    Comparing ids is what costs, so lines are sorted by score, and by id too only where scores tie.
    """
    order = (-scores).argsort(axis=1)
    line = np.arange(len(scores))[:, None]
    # One column beyond the cut: a tie across it decides who is in.
    leading = scores[line, order[:, : top_k + 1]]
    tied = ((leading[:, 1:] == leading[:, :-1]) & (leading[:, 1:] > -np.inf)).any(axis=1)
    for i in tied.nonzero()[0]:
        order[i] = np.lexsort((ids[i], -scores[i]))
    return order[:, :top_k]
