"""The region's actor for live documents: it writes the region's logs, and reads the logs of all.

A named, detached actor that Ray restarts. It holds nothing that the store cannot give back: each
incarnation reads the logs, numbers their changes anew, and whoever follows takes in everything once
more.

    Documents     the methods that others call
    CorpusFeed    of one corpus: writes on their way, the numbered changes, and those who follow
    LogThread     appends and reads, one step at a time
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce

from actors.mutations.corpus import CorpusFeed, DocumentBounds
from actors.mutations.log_thread import POLL_S, LogNews, LogThread
from actors.mutations.nudges import LogNudges
from actors.mutations.preparing import Preparing
from actors.mutations.shared_queue import SharedQueue
from actors.query.replica_sets import ReplicaSets
from actors.runtime.calls import Actor
from cluster.artifacts.cache import ArtifactCache
from cluster.catalog.catalog import Catalog
from cluster.clock import SYSTEM_CLOCK, Backoff, Clock, Deadline, system_rng
from cluster.config import Settings
from cluster.deltas.changes import Changes
from cluster.deltas.followers import ALIVE_S
from cluster.errors import NotFound, Overloaded, RaygionError, Unavailable
from cluster.logs.events import EventLog
from cluster.mutations.conflicts import ConflictPolicy, Versions
from cluster.mutations.hybrid_clock import HybridClock
from cluster.mutations.region_writer import Outcome
from cluster.mutations.requests import CorpusDocuments, DocumentsPosition, DocumentWrite
from cluster.mutations.store_log import LOGS, StoreMutationLog
from cluster.mutations.watermark import HeldMutations, Watermark
from cluster.releases.events import DocumentsStatus
from cluster.serving.view import RegionView, ReleaseView
from cluster.store.object_store import ObjectStore

log = EventLog(__name__)

_START_TIMEOUT_S = 30.0
_REFRESH_TIMEOUT_S = 2.0
_VIEW_S = 20.0
_TELL_TIMEOUT_S = 2.0
_BACKOFF = Backoff(initial_s=0.1, wait_max_s=2.0)


class Documents:
    """The methods that other processes call. Errors of `cluster.errors` reach the callers."""

    def __init__(
        self,
        settings: Settings,
        region: str,
        store: ObjectStore,
        cache: ArtifactCache,
        coordinator: Actor,
        clock: Clock = SYSTEM_CLOCK,
        *,
        bounds: DocumentBounds | None = None,
        alive_s: float = ALIVE_S,
    ) -> None:
        """`alive_s`: how long after its last poll a process that follows is waited for."""
        self._settings = settings
        self._region = region
        self._store = store
        self._coordinator = coordinator
        self._clock = clock
        self._bounds = bounds or DocumentBounds()
        self._alive_s = alive_s
        self._rng = system_rng()
        self._replicas = ReplicaSets(clock, self._rng, None)
        self._preparing = Preparing(
            settings=settings,
            catalog=Catalog(store),
            artifacts=cache.artifacts,
            release=self._current_release,
            embedders=self._replicas.embedders,
        )
        self._nudges = LogNudges(settings, region)
        self._spans = ThreadPoolExecutor(1, thread_name_prefix="spans")
        self._corpora: dict[str, CorpusFeed] = {}
        self._view = RegionView(region=region)
        self._seen = asyncio.Event()
        """Whether a view of the region has come."""
        self._tasks: list[asyncio.Task[None]] = []
        self._bytes = 0
        """Bytes of the documents that are under way."""

    async def write(
        self, corpus: str, writes: tuple[DocumentWrite, ...], timeout_s: float
    ) -> tuple[Outcome, ...]:
        """Writes documents; the end of each, in their order. Those that are `Written` are in the
        store.

        Raises NotFound for a corpus that no resident release of this region has, Unavailable while
        the region is starting, Overloaded when too much is under way already.
        """
        deadline = Deadline.after(timeout_s, self._clock)
        feed = await self._feed(corpus)
        with self._under_way(writes):
            prepared = await self._preparing.prepared(corpus, writes, deadline)
            return await feed.write(prepared, deadline)

    async def follow(
        self, corpus: str, epoch: str, version: int, poll_s: float, process: str
    ) -> Changes:
        """What leads from that version of that epoch to the present one, as soon as there is more,
        or after `poll_s`; everything, for a version that is not known. `process`: the id of the
        process that follows, which has that version.
        """
        return await (await self._feed(corpus)).follow(epoch, version, poll_s, process)

    async def feed(self, corpus: str, after: Watermark, poll_s: float) -> Changes:
        """What may be news to somebody who has seen the changes up to that watermark, as soon as
        there is any, or after `poll_s`. The watermark of the reply is the next one to ask with.
        """
        return await (await self._feed(corpus)).changes_after(after, poll_s)

    async def refresh(self, corpus: str) -> DocumentsPosition:
        """The position after a reading of all regions' logs that began after this call.

        Callers share readings. Raises Unavailable when a log cannot be read to its end in time.
        """
        feed = await self._feed(corpus)
        if not feed.has_thread:
            await self._look_for_logs()
        if not feed.has_thread:
            return feed.status().position
        return await feed.refresh(_REFRESH_TIMEOUT_S)

    async def reached(
        self, corpus: str, watermark: Watermark, timeout_s: float
    ) -> DocumentsPosition:
        """The position once this region has applied the logs up to the watermark, for which they
        are read at once. Raises NotYet when it has not in time.
        """
        return await (await self._feed(corpus)).reached(watermark, timeout_s)

    async def await_visible(
        self, corpus: str, watermark: Watermark, timeout_s: float
    ) -> DocumentsPosition:
        """The position once all processes of the region that follow show what the logs have up to
        the watermark. Raises NotYet, DeadlineExceeded.
        """
        return await (await self._feed(corpus)).await_visible(watermark, timeout_s)

    async def document(self, corpus: str, document: str) -> Versions:
        """What is kept of the document, its delete included; nothing where no change of it is
        known, so that the index alone says what it is.
        """
        return (await self._feed(corpus)).versions(document)

    async def status(self) -> dict[str, CorpusDocuments]:
        """By corpus."""
        await self._started()
        return {corpus: feed.status() for corpus, feed in sorted(self._corpora.items())}

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for feed in self._corpora.values():
            feed.stop()
        await self._nudges.stop()

    @contextlib.contextmanager
    def _under_way(self, writes: Sequence[DocumentWrite]) -> Iterator[None]:
        size_bytes = sum(write.size_bytes for write in writes)
        if self._bytes and self._bytes + size_bytes > self._bounds.under_way_bytes_max:
            raise Overloaded("the region writes as many documents as it can; come back later")
        self._bytes += size_bytes
        try:
            yield
        finally:
            self._bytes -= size_bytes

    async def _feed(self, corpus: str) -> CorpusFeed:
        await self._started()
        feed = self._corpora.get(corpus)
        if feed is None:
            raise NotFound(f"no release that is resident here has a corpus {corpus!r}")
        return feed

    async def _started(self) -> None:
        # The tasks need the running event loop, which a constructor does not have.
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._follow_views(), name="views"),
                asyncio.create_task(self._watch_for_logs(), name="logs"),
            ]
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await self._seen.wait()
        except TimeoutError as error:
            raise Unavailable("the region's coordinator does not answer") from error

    async def _follow_views(self) -> None:
        known, attempt = None, 0
        while True:
            try:
                async with asyncio.timeout(_VIEW_S + 10.0):
                    view: RegionView = await self._coordinator.call("view", known, _VIEW_S)
                self._see(view)
                known, attempt = view.revision, 0
            except Exception as error:
                # Whatever it is: the corpora of the last view stay, and others would never come.
                wait_s = _BACKOFF.wait_s(attempt, self._rng)
                log.warning(
                    "mutations.no_view",
                    "no view from the coordinator ({error}); again in {wait_s:.1f} s",
                    error=error,
                    wait_s=wait_s,
                )
                attempt += 1
                await asyncio.sleep(wait_s)

    def _see(self, view: RegionView) -> None:
        """Has the corpora of the resident releases that may be in this region, and no others."""
        self._view = view
        self._replicas.follow(view)
        held: dict[str, list[HeldMutations]] = {}
        for release in view.releases.values():
            for name, corpus in release.corpora.items():
                held.setdefault(name, []).append(corpus.held)
        for name in self._corpora.keys() - held.keys():
            self._corpora.pop(name).stop()
        for name, of_bases in held.items():
            if name not in self._corpora:
                self._corpora[name] = self._new_feed(name)
            self._corpora[name].hold(
                reduce(HeldMutations.common, of_bases), reduce(HeldMutations.joined, of_bases)
            )
        self._seen.set()

    async def _watch_for_logs(self) -> None:
        while True:
            try:
                await self._tell_coordinator()
                if not all(feed.has_thread for feed in self._corpora.values()):
                    await self._look_for_logs()
            except Exception as error:
                # Whatever it is: who stops looking never hears of a log again.
                log.warning(
                    "mutations.no_look", "the store cannot be looked into: {error}", error=error
                )
            await asyncio.sleep(POLL_S)

    async def _tell_coordinator(self) -> None:
        """For the region's heartbeats, by which regions compare their documents. Again and again,
        since coordinators come and go.
        """
        said = {
            corpus: DocumentsStatus(
                watermark=position.watermark.as_dict(), documents_digest=status.digest
            )
            for corpus, feed in self._corpora.items()
            if (status := feed.status()).digest and (position := status.position).watermark
        }
        if not said:
            return
        # Without a coordinator there are no heartbeats, either.
        with contextlib.suppress(RaygionError, TimeoutError):
            async with asyncio.timeout(_TELL_TIMEOUT_S):
                await self._coordinator.call("documents", said)

    async def _look_for_logs(self) -> None:
        """Starts the threads of the corpora that have logs, by one request for all of them."""
        began_ms = self._clock.wall_ms()
        with_logs = await asyncio.to_thread(self._store.list_folders, LOGS)
        for corpus, feed in self._corpora.items():
            if corpus in with_logs:
                feed.start()
            else:
                feed.has_no_log(began_ms)

    def _new_feed(self, corpus: str) -> CorpusFeed:
        stamps = HybridClock(
            self._region, self._clock, skew_max_ms=self._settings.routing.clock_skew_max_ms
        )
        writing = [r for r in self._settings.regions if self._settings.may_hold(r, corpus)]

        def open_thread(queue: SharedQueue, news: Callable[[LogNews], None]) -> LogThread:
            return LogThread(
                corpus,
                self._region,
                mutations=StoreMutationLog(self._store, corpus),
                queue=queue,
                stamps=stamps,
                policy=ConflictPolicy.LAST_WRITER,
                writing=writing,
                news=news,
                spans=self._spans,
                clock=self._clock,
            )

        learn = partial(self._preparing.learn, corpus)
        grown = partial(self._nudges.tell, corpus)
        return CorpusFeed(
            corpus,
            self._region,
            open_thread,
            learn=learn,
            grown=grown,
            clock=self._clock,
            bounds=self._bounds,
            alive_s=self._alive_s,
        )

    def _current_release(self) -> ReleaseView:
        return self._view.pin(None, self._clock.wall_ms()).release
