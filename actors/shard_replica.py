"""A copy of one shard: a Ray actor that keeps index versions open by memory map and searches
them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from actors.shard_index import ShardIndex
from cluster.artifact_cache import ArtifactCache
from cluster.artifacts import Artifacts
from cluster.clock import Deadline
from cluster.errors import DeadlineExceeded, Overloaded, Unavailable
from cluster.manifests import IndexManifest
from cluster.object_store import ObjectStore
from cluster.search import Int64Array, Passages, ShardHits, ShardQuery

T = TypeVar("T")
_WAITING_MAX = 256
"""Searches that may wait for a replica's thread; more are refused, so that waiting stays short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """What a replica says of itself. A replica that was restarted holds nothing."""

    index_versions: frozenset[str]
    pid: int
    waiting: int


class ShardReplicaActor:
    """Holds several index versions of one shard side by side, so that a switch costs no load.

    A search keeps the index it began with, whatever is loaded or unloaded meanwhile.
    """

    def __init__(self, shard: int, store: ObjectStore, cache_folder: Path) -> None:
        self._shard = shard
        self._cache = ArtifactCache(Artifacts(store), cache_folder)
        self._indexes: dict[str, ShardIndex] = {}
        # One search at a time: a node has a replica for each core, and more threads only fight.
        self._searcher = ThreadPoolExecutor(1, thread_name_prefix="search")
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._waiting = 0

    async def load(self, manifest: IndexManifest) -> None:
        """Fetches, verifies and opens this shard of an index version; nothing to do if it is open.

        Raises Corrupt when the artifact's bytes are not what the manifest says.
        """
        await asyncio.get_running_loop().run_in_executor(self._loader, self._open, manifest)

    async def unload(self, index_version: str) -> None:
        """Lets go of an index version; its memory is freed when the last search on it is over."""
        self._indexes.pop(index_version, None)

    async def search(self, query: ShardQuery, timeout_s: float) -> ShardHits:
        index = self._index(query.index_version)
        return await self._run(lambda: index.search(query), timeout_s)

    async def passages(
        self,
        index_version: str,
        rows: Int64Array,
        fields: tuple[str, ...] | None,
        timeout_s: float,
    ) -> Passages:
        index = self._index(index_version)
        return await self._run(lambda: index.passages(rows, fields), timeout_s)

    async def status(self) -> ReplicaStatus:
        return ReplicaStatus(
            index_versions=frozenset(self._indexes), pid=os.getpid(), waiting=self._waiting
        )

    def _open(self, manifest: IndexManifest) -> None:
        if manifest.version in self._indexes:
            return
        artifact = next(s for s in manifest.shards if s.shard == self._shard)
        folder = self._cache.folder_for(artifact.files)
        index = ShardIndex.open(folder, manifest.parameters, manifest.dimension)
        self._indexes[manifest.version] = index

    def _index(self, index_version: str) -> ShardIndex:
        index = self._indexes.get(index_version)
        if index is None:
            raise Unavailable(f"shard {self._shard} of index {index_version} is not loaded here")
        return index

    async def _run(self, work: Callable[[], T], timeout_s: float) -> T:
        if self._waiting >= _WAITING_MAX:
            raise Overloaded(f"shard {self._shard}: {self._waiting} searches are waiting already")
        deadline = Deadline.after(timeout_s)

        def in_time() -> T:
            deadline.check("a search waited for its turn")
            return work()

        self._waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._searcher, in_time)
        except TimeoutError as error:
            raise DeadlineExceeded(f"shard {self._shard} did not finish in time") from error
        finally:
            self._waiting -= 1
