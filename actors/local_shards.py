"""Shards that a gateway searches in its own process, without a call: those whose files its node
has.

The files are mapped, not read, and the replicas of the node map the same ones: one copy in memory
serves them all. The actors stay in reserve for what cannot be searched here.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from actors.shard_replica import ShardReplicaActor
from cluster.artifact_cache import ArtifactCache
from cluster.artifacts import Artifacts
from cluster.catalog import Catalog
from cluster.errors import Corrupt, RaygionError, Unavailable
from cluster.object_store import ObjectStore
from cluster.region_view import CorpusView, RegionView
from cluster.search import Int64Array, Passages, ShardHits, ShardQuery

T = TypeVar("T")
log = logging.getLogger(__name__)


class LocalShardReplica:
    """A `cluster.fanout.ShardReplica` and `LocalShard`: what an actor does, without the actor."""

    def __init__(self, corpus: str, shard: int, replica: ShardReplicaActor) -> None:
        self.replica_id = f"{corpus}/{shard}/local"
        self._replica = replica

    def search_now(self, query: ShardQuery) -> ShardHits | None:
        return self._unless_broken(query.index_version, lambda: self._replica.search_now(query))

    def passages_now(
        self, index_version: str, rows: Int64Array, fields: tuple[str, ...] | None
    ) -> Passages | None:
        return self._unless_broken(
            index_version, lambda: self._replica.passages_now(index_version, rows, fields)
        )

    async def search(self, query: ShardQuery, timeout_s: float) -> ShardHits:
        return await self._replica.search(query, timeout_s)

    async def passages(
        self,
        index_version: str,
        rows: Int64Array,
        fields: tuple[str, ...] | None,
        timeout_s: float,
    ) -> Passages:
        return await self._replica.passages(index_version, rows, fields, timeout_s)

    def _unless_broken(self, index_version: str, work: Callable[[], T | None]) -> T | None:
        try:
            return work()
        except Corrupt as error:
            log.error("%s is left to its actors: %s", self.replica_id, error)
            self._replica.unload(index_version)
        except Unavailable:
            # Let go of, by this or by a new view, while a query was on its way here.
            pass
        return None


class LocalShards:
    """Follows the region's views: opens what this node has, lets go of what no release needs.

    Nothing waits for it. Until a shard is open here, and when it cannot be opened, the actors serve
    it.
    """

    def __init__(self, store: ObjectStore, cache_folder: Path) -> None:
        self._store = store
        self._catalog = Catalog(store)
        self._cache_folder = cache_folder
        self._cache = ArtifactCache(Artifacts(store), cache_folder)
        # One for all shards: they are many, and the node has so many cores.
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="search")
        self._shards: dict[tuple[str, int], ShardReplicaActor] = {}
        self._opened: dict[tuple[str, str], dict[int, LocalShardReplica]] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}

    def replica(self, corpus: CorpusView, shard: int) -> LocalShardReplica | None:
        """None while the shard of this index version is not open here."""
        return self._opened.get((corpus.corpus, corpus.index_version), {}).get(shard)

    def follow(self, view: RegionView) -> None:
        """Call it with each new view, in a running event loop."""
        corpora = [c for release in view.releases.values() for c in release.corpora.values()]
        wanted = {(corpus.corpus, corpus.index_version) for corpus in corpora}
        for key in self._tasks.keys() - wanted:
            self._tasks.pop(key).cancel()
            self._let_go(*key)
        for key in wanted - self._tasks.keys():
            self._tasks[key] = asyncio.create_task(self._open(*key), name=f"open {key[0]}")

    async def _open(self, corpus: str, index_version: str) -> None:
        opened = self._opened.setdefault((corpus, index_version), {})
        try:
            found = await asyncio.to_thread(self._catalog.find_index, corpus, index_version)
            if found is None:
                return
            manifest, _ = found
            for artifact in manifest.shards:
                if await asyncio.to_thread(self._cache.holds, artifact.files):
                    shard = self._shard(corpus, artifact.shard)
                    await shard.load(manifest)
                    opened[artifact.shard] = LocalShardReplica(corpus, artifact.shard, shard)
        except RaygionError as error:
            log.warning("%s stays with its actors: %s", corpus, error)

    def _let_go(self, corpus: str, index_version: str) -> None:
        for shard in self._opened.pop((corpus, index_version), {}):
            self._shards[corpus, shard].unload(index_version)

    def _shard(self, corpus: str, shard: int) -> ShardReplicaActor:
        if (corpus, shard) not in self._shards:
            self._shards[corpus, shard] = ShardReplicaActor(
                shard, self._store, self._cache_folder, self._threads
            )
        return self._shards[corpus, shard]
