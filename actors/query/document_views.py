"""The live documents that the searches of this process see: it follows the region's documents actor
for each corpus of the resident releases.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Mapping, Set
from functools import partial
from typing import cast

from actors.query.local_shards import LocalShards
from actors.query.shared_readings import SharedReadings
from actors.runtime.calls import Actor
from actors.shards.changes_follower import ChangesFollower
from cluster.clock import Deadline
from cluster.deltas.changes import Changes
from cluster.deltas.corpus_deltas import CorpusDeltas, DeltaKey
from cluster.deltas.delta import DeltaView
from cluster.deltas.space import Space
from cluster.errors import NotFound, Unavailable
from cluster.mutations.requests import DocumentsPosition
from cluster.mutations.watermark import Watermark
from cluster.serving.documents import DocumentsKnowledge
from cluster.serving.view import CorpusView, RegionView, ReleaseView

_READ_S = 1.0
"""Time between two reports on how current the documents of a corpus are."""
_REFRESH_TIMEOUT_S = 3.0
"""A little longer than the actor itself waits for the store."""

_UNREAD = DocumentsKnowledge(watermark=Watermark(), read_ms=0)


class DocumentViews:
    """An `actors.regions.settling.DocumentsSource`. While the actor is away, or there is none, what
    has been taken in stays as it is.
    """

    def __init__(self, documents: Actor, rng: random.Random, local: LocalShards | None) -> None:
        """`local`: the shards of this process, which are told of all changes, too."""
        self._documents = documents
        self._rng = rng
        self._local = local
        self._corpora: dict[str, _Corpus] = {}

    def follow(self, view: RegionView) -> None:
        """Call it with each new view, in a running event loop."""
        wanted: defaultdict[str, set[DeltaKey]] = defaultdict(set)
        for release in view.releases.values():
            for name, corpus in release.corpora.items():
                wanted[name].add(_key(release, corpus))
        for name in self._corpora.keys() - wanted.keys():
            self._corpora.pop(name).stop()
        for name, keys in wanted.items():
            if name not in self._corpora:
                self._corpora[name] = _Corpus(name, self._documents, self._rng, self._local)
            self._corpora[name].serve(keys)

    def view(self, release: ReleaseView, corpus: CorpusView) -> DeltaView | None:
        """What a search of the release sees from now on; None where nobody has written a document
        of the corpus, or that is not known here.

        Raises Unavailable while what a new release needs is still being taken in.
        """
        known = self._corpora.get(corpus.corpus)
        position = None if known is None else known.deltas.position
        if known is None or position is None or position.version == 0:
            return None
        view = known.deltas.view(_key(release, corpus))
        if view is None:
            raise Unavailable(
                f"the live documents of {corpus.corpus!r} are not there yet for release "
                f"{release.number}; try again shortly"
            )
        return view

    @property
    def known(self) -> Mapping[str, DocumentsKnowledge]:
        """By corpus; a corpus without a log has none. What is known never goes back.

        Before the actor has answered, there may be documents of whatever age.
        """
        positions = {name: corpus.deltas.position for name, corpus in self._corpora.items()}
        return {
            name: _UNREAD
            if position is None
            else DocumentsKnowledge(watermark=position.watermark, read_ms=position.read_ms)
            for name, position in positions.items()
            if position is None or position.version
        }

    async def refresh(self, corpus: str) -> None:
        """Returns when `known` holds all that a reading of all regions' logs of the corpus found,
        which began after this call. Callers share readings.

        Raises Unavailable when one of the logs cannot be read to its end within seconds, NotFound
        for a corpus that the region does not hold.
        """
        if corpus not in self._corpora:
            raise NotFound(f"no release that is resident here has a corpus {corpus!r}")
        await self._corpora[corpus].readings.fresh()

    async def start(self, deadline: Deadline) -> None:
        """Returns when each corpus has been asked for, whether or not the actor has answered; or
        when the time is over.
        """
        asked = [corpus.follower.attempted.wait() for corpus in self._corpora.values()]
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                await asyncio.gather(*asked)
        except TimeoutError:
            return

    def stop(self) -> None:
        for corpus in self._corpora.values():
            corpus.stop()


class _Corpus:
    """One corpus, as far as this process follows it."""

    def __init__(
        self, name: str, documents: Actor, rng: random.Random, local: LocalShards | None
    ) -> None:
        self._name = name
        self._documents = documents
        self._local = local
        self._keys: Set[DeltaKey] = frozenset()
        self._taking = asyncio.Lock()
        self._taken = asyncio.Event()
        """Set, and replaced, when changes were taken in."""
        self.deltas = CorpusDeltas()
        self.follower = ChangesFollower(documents, name, self._take, rng, read_s=_READ_S)
        self.readings = SharedReadings(self._read, timeout_s=_REFRESH_TIMEOUT_S)

    def serve(self, keys: Set[DeltaKey]) -> None:
        """Takes everything in once more where a release compares other vectors than before."""
        is_more = not keys <= self._keys
        self._keys = frozenset(keys)
        if is_more:
            self.follower.start()

    def stop(self) -> None:
        self.follower.stop()

    async def _take(self, changes: Changes) -> None:
        # A thread cannot be stopped: when the follower is, the lock must be held until it ends.
        await asyncio.shield(asyncio.create_task(self._take_alone(changes)))

    async def _take_alone(self, changes: Changes) -> None:
        async with self._taking:
            # First the shards: they must know a version before any search names it.
            if self._local is not None:
                await self._local.take(self._name, changes)
            take = partial(self.deltas.take, changes, self._keys)
            if changes.changes:
                await asyncio.to_thread(take)
            else:
                take()
        self._taken.set()
        self._taken = asyncio.Event()

    async def _read(self) -> None:
        found = cast(DocumentsPosition, await self._documents.call("refresh", self._name))
        while not self._has(found):
            await self._taken.wait()
        async with self._taking:
            self.deltas.has_read(found)

    def _has(self, found: DocumentsPosition) -> bool:
        own = self.deltas.position
        return own is not None and found.watermark <= own.watermark


def _key(release: ReleaseView, corpus: CorpusView) -> DeltaKey:
    embedder = release.embedder if corpus.has_embedder else None
    return Space(embedder, corpus.dimension), corpus.metric
