"""Shards that compare with all rows, and the kind of search that asks them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import numpy as np

from actors.query.shard_search import SearchKind
from cluster.arrays import Int64Array
from cluster.balance.replica_set import ReplicaSet
from cluster.balance.weights import OutcomeWeights
from cluster.errors import Unavailable
from cluster.query.search import Passages, SearchEffort, ShardHits, ShardQuery
from cluster.search.fanout import SearchableReplica, ShardAccess
from cluster.vectors.metric import Metric

DIMENSION, SHARDS, ROWS = 4, 3, 20
VECTORS = np.random.default_rng(3).standard_normal((SHARDS, ROWS, DIMENSION)).astype(np.float32)
QUERIES = np.random.default_rng(4).standard_normal((12, DIMENSION)).astype(np.float32)


class FakeShard:
    """Compares with all rows; says of queries whose first number is positive that it had to."""

    def __init__(self, number: int) -> None:
        self.replica_id = f"shard {number}"
        self.number = number
        self.batches: list[int] = []
        self.error: Unavailable | None = None
        self.fetch_error: Unavailable | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def search(self, query: ShardQuery, timeout_s: float) -> ShardHits:
        self.batches.append(len(query.vectors))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        scores = query.vectors @ VECTORS[self.number].T
        rows = np.argsort(-scores, axis=1)[:, : query.top_k]
        return ShardHits(
            scores=np.take_along_axis(scores, rows, axis=1),
            rows=rows,
            ids=np.char.add(f"{self.number}-", rows.astype(str)).astype(np.bytes_),
            fell_back=query.vectors[:, 0] > 0,
        )

    async def passages(
        self,
        index_version: str,
        rows: Int64Array,
        fields: tuple[str, ...] | None,
        timeout_s: float,
    ) -> Passages:
        if self.fetch_error is not None:
            raise self.fetch_error
        texts = tuple(f"text {self.number}-{row}" for row in rows)
        return Passages(texts=texts, metadata=({"shard": self.number},) * len(rows))


def kind_of(shards: Sequence[SearchableReplica], top_k: int = 5) -> SearchKind:
    weights = OutcomeWeights(now_s=lambda: 0.0, rng=random.Random(1))
    return SearchKind(
        corpus="c",
        index_version="v",
        metric=Metric.INNER_PRODUCT,
        top_k=top_k,
        fields=None,
        effort=SearchEffort(),
        passages=True,
        patience=None,
        filter_key=b"",
        filter=None,
        shards=[ShardAccess(ReplicaSet([shard], weights)) for shard in shards],
    )
