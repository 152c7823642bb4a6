"""The gateway's side of replicas: the protocols of the core, spoken to Ray actors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from actors.runtime.calls import NamedActor
from cluster.arrays import Float32Array, Int64Array
from cluster.embedding.embedders import CountedVectors
from cluster.query.search import Passages, ShardHits, ShardQuery
from cluster.search.coalescing import Coalescer

_SHORT_CHARS = 1000
_TOGETHER_MAX = 4
"""A call of four texts saves most of the calls. In larger ones, all clients of an embedder end up
waiting for the same call, and it is idle between two calls.
"""
_CALLS_MAX = 32
_WAITING_MAX = 4096


class ActorShardReplica:
    """A `cluster.search.fanout.SearchableReplica` that lives in an actor."""

    def __init__(self, name: str) -> None:
        self._actor = NamedActor(name)

    @property
    def replica_id(self) -> str:
        return self._actor.name

    async def search(self, query: ShardQuery, timeout_s: float) -> ShardHits:
        return cast(ShardHits, await self._actor.call("search", query, timeout_s))

    async def passages(
        self,
        index_version: str,
        rows: Int64Array,
        fields: tuple[str, ...] | None,
        timeout_s: float,
    ) -> Passages:
        answer = await self._actor.call("passages", index_version, rows, fields, timeout_s)
        return cast(Passages, answer)


class ActorEmbedder:
    """An embedder's replica that lives in an actor.

    Single texts that are asked for at the same time go there in one call, since a call costs some
    1.4 ms of CPU, and embedding a question 4 to 6. Long texts go alone, so that none waits for
    them.
    """

    def __init__(self, name: str) -> None:
        self._actor = NamedActor(name)
        self._singles: Coalescer[None, tuple[str, float], Float32Array] = Coalescer(
            self._embed_each,
            size_max=_TOGETHER_MAX,
            in_flight_max=_CALLS_MAX,
            waiting_max=_WAITING_MAX,
        )

    @property
    def replica_id(self) -> str:
        return self._actor.name

    async def embed(self, texts: Sequence[str], timeout_s: float) -> Float32Array:
        """float32 [n, d], one row a text."""
        if len(texts) == 1 and len(texts[0]) <= _SHORT_CHARS:
            vector = await self._singles.submit(None, (texts[0], timeout_s), size=1)
            return vector[np.newaxis]
        return cast(Float32Array, await self._actor.call("embed", list(texts), timeout_s))

    async def _embed_each(
        self, _: None, asked: Sequence[tuple[str, float]]
    ) -> Sequence[Float32Array]:
        """float32 [d] for each text, which comes with the seconds that its caller has left."""
        timeout_s = max(left_s for _, left_s in asked)
        made = await self._actor.call("embed_each", [text for text, _ in asked], timeout_s)
        return list(cast(Float32Array, made))

    async def embed_passages(self, texts: Sequence[str], timeout_s: float) -> Float32Array:
        """float32 [n, d], one row a passage."""
        return cast(Float32Array, await self._actor.call("embed_passages", list(texts), timeout_s))

    async def embed_counted(self, texts: Sequence[str], timeout_s: float) -> CountedVectors:
        """The vectors that `embed` makes, and the number of tokens."""
        answer = await self._actor.call("embed_counted", list(texts), timeout_s)
        return cast(CountedVectors, answer)
