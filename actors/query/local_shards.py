"""Shards that a gateway searches in its own process, without a call: those whose files its node
has.

The files are mapped, not read, and the replicas of the node map the same ones: one copy in memory
serves them all. The actors stay in reserve for what cannot be searched here.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from actors.shards.hidden_documents import HiddenDocuments
from actors.shards.index import ShardIndex
from actors.shards.replica import OpenIndex, ShardReplica
from cluster.arrays import Int64Array
from cluster.artifacts.cache import ArtifactCache
from cluster.catalog.catalog import Catalog
from cluster.catalog.manifests import IndexManifest
from cluster.clock import SYSTEM_CLOCK, Clock
from cluster.deltas.changes import Changes
from cluster.errors import RaygionError, Unavailable
from cluster.logs.context import log_scope
from cluster.logs.events import EventLog
from cluster.query.search import Passages, ShardHits, ShardQuery
from cluster.serving.view import CorpusView, RegionView

log = EventLog(__name__)


class LocalShardReplica:
    """A `cluster.search.fanout.SearchableReplica` and `LocalShard`: what an actor does, without the
    actor.

    What is asked of it while the index version is being opened waits for that.
    """

    def __init__(
        self,
        corpus: str,
        shard: int,
        replica: ShardReplica,
        until_opened: Callable[[str, str], Awaitable[None]],
    ) -> None:
        """`until_opened`, of a corpus and an index version: returns when that one is not being
        opened any more.
        """
        self.replica_id = f"{corpus}/{shard}/local"
        self._corpus = corpus
        self._replica = replica
        self._until_opened = until_opened

    def holds(self, index_version: str) -> bool:
        return self._replica.holds(index_version)

    def unload(self, index_version: str) -> None:
        self._replica.unload(index_version)

    async def load(self, manifest: IndexManifest) -> None:
        """Raises what `ShardReplica.load` does."""
        await self._replica.load(manifest)

    def search_now(self, query: ShardQuery) -> ShardHits | None:
        try:
            return self._replica.search_now(query)
        except Unavailable:
            # Damaged, or let go of by a new view while the query was on its way here.
            return None

    def passages_now(
        self, index_version: str, rows: Int64Array, fields: tuple[str, ...] | None
    ) -> Passages | None:
        try:
            return self._replica.passages_now(index_version, rows, fields)
        except Unavailable:
            return None

    async def search(self, query: ShardQuery, timeout_s: float) -> ShardHits:
        await self._opened(query.index_version)
        return await self._replica.search(query, timeout_s)

    async def passages(
        self,
        index_version: str,
        rows: Int64Array,
        fields: tuple[str, ...] | None,
        timeout_s: float,
    ) -> Passages:
        await self._opened(index_version)
        return await self._replica.passages(index_version, rows, fields, timeout_s)

    async def _opened(self, index_version: str) -> None:
        if not self.holds(index_version):
            await self._until_opened(self._corpus, index_version)


class LocalShards:
    """Follows the region's views: opens what this node has, lets go of what no release needs.

    Until a shard is open here, and when it cannot be opened, the actors serve it: only what none of
    them answers waits for the opening. What turns out to be damaged here stays with the actors.
    """

    def __init__(
        self,
        catalog: Catalog,
        cache: ArtifactCache,
        clock: Clock = SYSTEM_CLOCK,
        open_index: OpenIndex = ShardIndex.open,
    ) -> None:
        self._catalog = catalog
        self._cache = cache
        self._clock = clock
        self._open_index = open_index
        # One for all shards: they are many, and the node has so many cores.
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="search")
        self._replicas: dict[tuple[str, int], LocalShardReplica] = {}
        self._opening: dict[tuple[str, str], asyncio.Task[None]] = {}
        """Tasks that open shards, by corpus and index version, including those that are done."""
        self._hidden: defaultdict[str, HiddenDocuments] = defaultdict(HiddenDocuments)
        """What live documents hide, by corpus."""
        self._whole: set[tuple[str, str]] = set()
        """Index versions of which every shard has been opened."""

    def replica(self, corpus: CorpusView, shard: int) -> LocalShardReplica | None:
        """The shard in this process; None while this index version is not open here."""
        replica = self._replicas.get((corpus.corpus, shard))
        return replica if replica is not None and replica.holds(corpus.index_version) else None

    def opening(self, corpus: CorpusView, shard: int) -> LocalShardReplica | None:
        """The shard that is being opened in this process; None while none is."""
        task = self._opening.get((corpus.corpus, corpus.index_version))
        return None if task is None or task.done() else self._replica(corpus.corpus, shard)

    async def take(self, corpus: str, changes: Changes) -> None:
        """Takes in changes of a corpus's documents. Raises ValueError for some that do not follow
        those of their epoch.
        """
        await asyncio.to_thread(self._hidden[corpus].take, changes)

    def follow(self, view: RegionView) -> None:
        """Call it with each new view, in a running event loop. What could not be opened, or was not
        here yet, is tried again with each.
        """
        corpora = [c for release in view.releases.values() for c in release.corpora.values()]
        wanted = {(corpus.corpus, corpus.index_version) for corpus in corpora}
        for key in self._opening.keys() - wanted:
            del self._opening[key]
            self._whole.discard(key)
            self._close(*key)
        for key in wanted - self._whole:
            if key not in self._opening or self._opening[key].done():
                self._opening[key] = asyncio.create_task(self._open(*key), name=f"open {key[0]}")

    async def _open(self, corpus: str, index_version: str) -> None:
        key, is_whole = (corpus, index_version), False
        # The log must not name the one request that came first after a new view.
        with log_scope():
            try:
                is_whole = await self._open_what_is_here(corpus, index_version)
            except (RaygionError, OSError) as error:
                log.warning(
                    "shard.stays_with_actors",
                    "{corpus} stays with its actors for now: {error}",
                    corpus=corpus,
                    error=error,
                )
        if key not in self._opening:
            # A thread that opens cannot be stopped: what it opened too late goes here.
            self._close(*key)
        elif is_whole and self._opening[key] is asyncio.current_task():
            self._whole.add(key)

    async def _open_what_is_here(self, corpus: str, index_version: str) -> bool:
        """True when that is every shard."""
        found = await asyncio.to_thread(self._catalog.find_index, corpus, index_version)
        if found is None:
            return False
        manifest, is_whole = found[0], True
        for artifact in manifest.shards:
            if await asyncio.to_thread(self._cache.holds, artifact.built_files):
                await self._replica(corpus, artifact.shard).load(manifest)
            else:
                is_whole = False
        return is_whole

    async def _until_opened(self, corpus: str, index_version: str) -> None:
        if (task := self._opening.get((corpus, index_version))) is not None:
            await asyncio.wait([task])

    def _close(self, corpus: str, index_version: str) -> None:
        for (of_corpus, _), replica in self._replicas.items():
            if of_corpus == corpus:
                replica.unload(index_version)

    def _replica(self, corpus: str, shard: int) -> LocalShardReplica:
        if (corpus, shard) not in self._replicas:
            actor = ShardReplica(
                shard,
                self._cache,
                searcher=self._threads,
                clock=self._clock,
                open_index=self._open_index,
                hidden=self._hidden[corpus],
            )
            replica = LocalShardReplica(corpus, shard, actor, self._until_opened)
            self._replicas[corpus, shard] = replica
        return self._replicas[corpus, shard]
