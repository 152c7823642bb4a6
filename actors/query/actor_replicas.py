"""The gateway's side of replicas: the protocols of the core, spoken to Ray actors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from actors.runtime.calls import NamedActor
from cluster.arrays import Float32Array, Int64Array
from cluster.embedding.embedders import CountedVectors
from cluster.query.search import Passages, ShardHits, ShardQuery


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
    """An embedder's replica that lives in an actor."""

    def __init__(self, name: str) -> None:
        self._actor = NamedActor(name)

    @property
    def replica_id(self) -> str:
        return self._actor.name

    async def embed(self, texts: Sequence[str], timeout_s: float) -> Float32Array:
        """float32 [n, d], one row a text."""
        return cast(Float32Array, await self._actor.call("embed", list(texts), timeout_s))

    async def embed_counted(self, texts: Sequence[str], timeout_s: float) -> CountedVectors:
        """The vectors that `embed` makes, and the number of tokens."""
        answer = await self._actor.call("embed_counted", list(texts), timeout_s)
        return cast(CountedVectors, answer)
