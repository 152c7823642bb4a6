"""A copy of one shard: a Ray actor that keeps index versions open by memory map and searches
them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from actors.runtime.calls import Actor
from actors.runtime.own_node import own_node
from actors.shards.changes_follower import ChangesFollower
from actors.shards.hidden_documents import HiddenDocuments
from actors.shards.index import ShardIndex
from actors.shards.opened_index import OpenedIndex
from cluster.arrays import Int64Array
from cluster.artifacts.cache import ArtifactCache
from cluster.artifacts.files import ArtifactFile
from cluster.catalog.manifests import TOMBSTONES_FILE, IndexManifest, ShardArtifact
from cluster.clock import SYSTEM_CLOCK, Clock, Deadline, system_rng
from cluster.deltas.changes import Changes
from cluster.documents.tombstones import read_tombstones
from cluster.errors import Corrupt, DeadlineExceeded, Overloaded, Unavailable
from cluster.logs.events import EventLog
from cluster.query.search import DocumentsSeen, Passages, ShardHits, ShardQuery
from cluster.shards.index_parameters import IndexParameters

T = TypeVar("T")
OpenIndex = Callable[[Path, IndexParameters, int], ShardIndex]
"""Opens the files of a shard in a folder, given the parameters and the dimension of its index."""
log = EventLog(__name__)
_WAITING_MAX = 256
"""Searches that may wait for a replica's thread; more are refused, so that waiting stays short."""
_HIDDEN_WAIT_S = 1.0
"""Time for which a search waits for changes of documents that others have taken in already."""
_BRIEF_S = 5e-3
"""Work that takes no longer is done on the event loop: handing it to a thread and back costs 0.1
ms, and up to 5 ms while both want the interpreter's lock.
"""
_BRIEF_ROWS = 256
"""Rows whose texts are fetched in less than that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """A replica's report on itself. A replica that was restarted holds nothing."""

    index_versions: frozenset[str]
    pid: int
    waiting: int
    busy_s: float
    """Time spent on searches since it started."""
    node: str
    """The id of the Ray node on which it runs."""


class ShardReplica:
    """Holds several index versions of one shard side by side, so that a switch costs no load.

    A search keeps the index it began with, whatever is loaded or unloaded meanwhile. An index that
    turns out to be damaged is unloaded and its queries fail as Unavailable: what is damaged here
    need not be so in other replicas, and loading it again verifies its bytes. A search that nobody
    waits for any more goes on for a block at most.
    """

    def __init__(
        self,
        shard: int,
        cache: ArtifactCache,
        documents: Actor | None = None,
        searcher: Executor | None = None,
        clock: Clock = SYSTEM_CLOCK,
        open_index: OpenIndex = ShardIndex.open,
        hidden: HiddenDocuments | None = None,
    ) -> None:
        """`searcher` runs the searches; None is a thread of the replica's own: a node has a replica
        for each core, and more threads only fight. What live documents hide comes from the region's
        actor `documents`, or is in `hidden`, which the caller keeps.
        """
        self._shard = shard
        self._clock = clock
        self._open_index = open_index
        self._cache = cache
        self._opened: dict[str, OpenedIndex] = {}
        self._wanted: set[str] = set()
        """The index versions that are loaded, are being loaded, or wait for it."""
        self._folders: dict[str, tuple[tuple[ArtifactFile, ...], ...]] = {}
        """Folders that the node's cache keeps for this replica, by index version."""
        self._hidden = hidden or HiddenDocuments()
        self._documents = documents
        self._follower: ChangesFollower | None = None
        self._hidden_more = asyncio.Event()
        """Set, and replaced, when changes were taken in."""
        self._searcher = searcher or ThreadPoolExecutor(1, thread_name_prefix="search")
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._waiting = 0
        self._gone_busy_s = 0.0

    async def load(self, manifest: IndexManifest) -> None:
        """Fetches, verifies and opens this shard of an index version; nothing to do if it is open.

        Raises Corrupt when the artifact's bytes are not what the manifest says.
        """
        self._wanted.add(manifest.version)
        if self._follower is None and self._documents is not None:
            self._follower = ChangesFollower(
                self._documents, manifest.corpus, self._take, system_rng()
            )
            self._follower.start()
        await asyncio.get_running_loop().run_in_executor(self._loader, self._open, manifest)

    def unload(self, index_version: str) -> None:
        """Unloads an index version; its memory is freed when the last search on it is over."""
        self._wanted.discard(index_version)
        opened = self._opened.pop(index_version, None)
        if opened is not None:
            self._gone_busy_s += opened.busy_s
            if all(other.whole is not opened.whole for other in list(self._opened.values())):
                self._hidden.close(opened.whole)
        gone = self._folders.pop(index_version, ())
        # Versions may share a shard that did not change, or from which documents were deleted.
        for files in set(gone).difference(*self._folders.values()):
            self._cache.unpin(files)

    def holds(self, index_version: str) -> bool:
        return index_version in self._opened

    async def search(self, query: ShardQuery, timeout_s: float) -> ShardHits:
        if query.documents is not None:
            await self._until_hidden(query.documents, min(timeout_s, _HIDDEN_WAIT_S))
        hits = self.search_now(query)
        if hits is not None:
            return hits
        opened = self._of_version(query.index_version)
        return await self._run(opened, partial(opened.search_while, query=query), timeout_s)

    def search_now(self, query: ShardQuery) -> ShardHits | None:
        """The hits, if they take so little time that the caller's thread may spend it."""
        opened = self._of_version(query.index_version)
        if query.documents is not None and not self._hidden.have_reached(query.documents):
            return None
        try:
            return opened.search(query) if opened.expected_s(query) <= _BRIEF_S else None
        except Corrupt as error:
            raise self._given_up(opened, error) from error

    async def passages(
        self,
        index_version: str,
        rows: Int64Array,
        fields: tuple[str, ...] | None,
        timeout_s: float,
    ) -> Passages:
        passages = self.passages_now(index_version, rows, fields)
        if passages is not None:
            return passages
        opened = self._of_version(index_version)

        def fetch(wanted: Callable[[], None]) -> Passages:
            wanted()
            return opened.index.passages(rows, fields)

        return await self._run(opened, fetch, timeout_s)

    def passages_now(
        self, index_version: str, rows: Int64Array, fields: tuple[str, ...] | None
    ) -> Passages | None:
        """The passages, if they are so few that the caller's thread may spend the time."""
        opened = self._of_version(index_version)
        try:
            return opened.index.passages(rows, fields) if len(rows) <= _BRIEF_ROWS else None
        except Corrupt as error:
            raise self._given_up(opened, error) from error

    async def status(self) -> ReplicaStatus:
        # A copy: the loading thread may add to it.
        opened = dict(self._opened)
        return ReplicaStatus(
            index_versions=frozenset(opened),
            pid=os.getpid(),
            waiting=self._waiting,
            busy_s=self._gone_busy_s + sum(each.spent_s() for each in opened.values()),
            node=own_node(),
        )

    async def _take(self, changes: Changes) -> None:
        # In a thread: the first changes may be those of many documents.
        await asyncio.to_thread(self._hidden.take, changes)
        self._hidden_more.set()
        self._hidden_more = asyncio.Event()

    async def _until_hidden(self, documents: DocumentsSeen, timeout_s: float) -> None:
        """Returns once it is known what these documents hide, or when the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._hidden.have_reached(documents):
                    await self._hidden_more.wait()

    def _open(self, manifest: IndexManifest) -> None:
        if manifest.version in self._opened or manifest.version not in self._wanted:
            return
        artifact = next(s for s in manifest.shards if s.shard == self._shard)
        self._folders[manifest.version] = artifact.folders
        try:
            self._opened[manifest.version] = self._open_shard(artifact, manifest)
        finally:
            if manifest.version not in self._wanted:
                # Unloaded meanwhile: what the cache was told to keep since then goes, too.
                self._folders[manifest.version] = artifact.folders
                self.unload(manifest.version)

    def _open_shard(self, artifact: ShardArtifact, manifest: IndexManifest) -> OpenedIndex:
        parameters = manifest.parameters_of(artifact)
        index = whole = self._whole(artifact.built_files, parameters, manifest.dimension)
        if artifact.tombstones is not None:
            file = self._cache.folder_for((artifact.tombstones,)) / TOMBSTONES_FILE
            deleted = read_tombstones(file.read_bytes(), source=TOMBSTONES_FILE)
            index = whole.without_documents(deleted)
        self._hidden.open(whole)
        return OpenedIndex(
            index,
            whole,
            artifact.built_files,
            parameters,
            self._hidden,
            now_s=self._clock.monotonic_s,
        )

    def _whole(
        self, files: tuple[ArtifactFile, ...], parameters: IndexParameters, dimension: int
    ) -> ShardIndex:
        # An open index was verified when it was mapped: another view of it costs milliseconds.
        for opened in list(self._opened.values()):
            if (opened.files, opened.parameters) == (files, parameters):
                return opened.whole
        folder = self._cache.folder_for(files)
        return self._open_index(folder, parameters, dimension)

    def _of_version(self, index_version: str) -> OpenedIndex:
        opened = self._opened.get(index_version)
        if opened is None:
            raise Unavailable(f"shard {self._shard} of index {index_version} is not loaded here")
        return opened

    def _given_up(self, damaged: OpenedIndex, error: Corrupt) -> Unavailable:
        # All versions that show the same files; one that was loaded again since does not.
        for version, opened in list(self._opened.items()):
            if opened.whole is damaged.whole:
                log.error(
                    "shard.let_go",
                    "shard {shard} of index {index} is let go of: {error}",
                    shard=self._shard,
                    index=version,
                    error=error,
                )
                self.unload(version)
        return Unavailable(f"shard {self._shard} is damaged here: {error}")

    async def _run(
        self, opened: OpenedIndex, work: Callable[[Callable[[], None]], T], timeout_s: float
    ) -> T:
        """Runs `work` in the searching thread; `work` calls its argument whenever it could stop."""
        if self._waiting >= _WAITING_MAX:
            raise Overloaded(f"shard {self._shard}: {self._waiting} searches are waiting already")
        deadline = Deadline.after(timeout_s, self._clock)
        is_wanted = True

        def check() -> None:
            deadline.check("a shard was searched")
            if not is_wanted:
                raise DeadlineExceeded("nobody waits for this search any more")

        self._waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._searcher, work, check)
        except TimeoutError as error:
            raise DeadlineExceeded(f"shard {self._shard} did not finish in time") from error
        except Corrupt as error:
            raise self._given_up(opened, error) from error
        finally:
            is_wanted = False
            self._waiting -= 1
