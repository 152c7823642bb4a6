"""A region's gateway, as far as live documents go: it follows the region's reader, and answers by
the real rules of consistency.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from cluster.deltas.changes import Changes, DocumentChange
from cluster.deltas.corpus_deltas import CorpusDeltas
from cluster.errors import NotYet, RaygionError, Unavailable
from cluster.mutations.requests import DocumentsPosition
from cluster.mutations.watermark import Watermark
from cluster.query.read_consistency import ReadConsistency
from cluster.releases.entries import Switch
from cluster.releases.release_log import Freshness
from cluster.serving.consistency import RegionKnowledge, decide
from cluster.serving.decisions import (
    RELEASE_LOG,
    Elsewhere,
    Log,
    Reading,
    Refresh,
    Serve,
    Wait,
)
from cluster.serving.documents import DocumentsKnowledge, LiveDocuments
from cluster.serving.view import Pulse, RegionView
from tests.simulation.clocks.sim_time import Process
from tests.simulation.documents.history import Served
from tests.simulation.documents.processes import CORPUS, DocumentRegion
from tests.simulation.world.regions import SKEW_MAX_MS, STORE_ID, RegionClock, release_view
from tests.support.values.corpus_views import corpus_view

if TYPE_CHECKING:
    from tests.simulation.documents.world import DocumentWorld

FOLLOWS_S = (0.02, 0.25)
READ_S = 1.0
"""Time between two reports on how current documents are that have not changed."""
REFRESH_TIMEOUT_S = 3.0
LOOKS_S = 0.02


class DocumentGateway(Process):
    """One life of it: what it has taken in is lost with it."""

    def __init__(self, world: DocumentWorld, region: DocumentRegion) -> None:
        region.lives += 1
        super().__init__(world.scheduler, f"{region.name}/gateway-{region.lives}")
        self._region = region
        self._rng = random.Random(f"{world.seed}/{self.name}")
        self._clock = RegionClock(world.scheduler)
        """That of its machine, on which the reader need not be."""
        self._clock.set_anew(self._rng)
        self._deltas = CorpusDeltas()
        self._epochs: dict[str, dict[str, DocumentChange]] = {}
        """The documents of the epoch that serves, and of the one that comes after it."""
        self._taken: tuple[str, int] = ("", 0)
        self._told_s = 0.0

    def body(self) -> None:
        while True:
            self.sleep(self._rng.uniform(*FOLLOWS_S))
            reader = self._region.reader
            if reader is None or reader.killed or reader.ended:
                continue
            if not reader.feed.is_news(*self._taken) and self._told_s > self.scheduler.now_s:
                continue
            changes = reader.feed.since(*self._taken)
            self.sleep(self._rng.uniform(0.001, 0.02))
            self._take(changes)

    def answer(self, consistency: ReadConsistency, caller: Process, timeout_s: float) -> Served:
        """Runs in the caller's process. Raises what the decision says; InvalidArgument."""
        until_s = self.scheduler.now_s + timeout_s
        readings: dict[Log, Reading] = {}
        while self.scheduler.now_s < until_s:
            decision = decide(
                consistency,
                documents=LiveDocuments(corpus=CORPUS, known=dict(self._known())),
                knowledge=self._knowledge(),
                readings=readings,
                now_ms=self._clock.wall_ms(),
            )
            match decision:
                case Serve():
                    return self._serve(decision)
                case Refresh():
                    for log in decision.logs:
                        readings[log] = self._refreshed(log, caller, until_s)
                case Wait():
                    caller.sleep(0.01)
                case Elsewhere():
                    raise decision.error
                case _:
                    assert_never(decision)
        raise NotYet("time ran out")

    def _serve(self, decision: Serve) -> Served:
        now_ms = self._clock.wall_ms()
        pinned = self._knowledge().pin(
            None, now_ms, not_before=decision.position, documents_floor=decision.documents_floor
        )
        for corpus, known in self._known() if self._deltas.position is not None else ():
            staleness_ms = known.staleness_ms(now_ms, SKEW_MAX_MS)
            pinned = pinned.with_documents(corpus, known, staleness_ms)
        position = self._deltas.position
        documents = {} if position is None else self._epochs[position.epoch]
        return Served(
            at_s=self.scheduler.now_s,
            gateway=self.name,
            epoch="" if position is None else position.epoch,
            watermark={} if position is None else position.watermark.as_dict(),
            staleness_ms=pinned.staleness_ms,
            session=pinned.session,
            documents={d: str(c.time) for d, c in documents.items() if c.content is not None},
        )

    def _known(self) -> Iterator[tuple[str, DocumentsKnowledge]]:
        position = self._deltas.position
        if position is None:
            yield CORPUS, DocumentsKnowledge(watermark=Watermark(), read_ms=0)
        elif position.version:
            yield CORPUS, DocumentsKnowledge(watermark=position.watermark, read_ms=position.read_ms)

    def _refreshed(self, log: Log, caller: Process, until_s: float) -> Reading:
        if log is RELEASE_LOG:
            return Reading.DONE
        until_s = min(until_s, self.scheduler.now_s + REFRESH_TIMEOUT_S)
        reader = self._region.reader
        try:
            if reader is None or reader.killed or reader.ended:
                raise Unavailable("the region has no reader")
            found = reader.refresh(caller, until_s)
        except RaygionError:
            return Reading.FAILED
        while not self._has(found):
            if self.scheduler.now_s >= until_s or self.killed:
                return Reading.FAILED
            caller.sleep(LOOKS_S)
        self._deltas.has_read(found)
        return Reading.DONE

    def _has(self, found: DocumentsPosition) -> bool:
        own = self._deltas.position
        return own is not None and found.watermark <= own.watermark

    def _take(self, changes: Changes) -> None:
        if changes.after == 0:
            self._epochs[changes.epoch] = {}
        of_epoch = self._epochs.setdefault(changes.epoch, {})
        of_epoch.update({change.document: change for change in changes.changes})
        self._deltas.take(changes, frozenset())
        self._taken = changes.epoch, changes.version
        self._told_s = self.scheduler.now_s + READ_S
        serving = self._deltas.position
        assert serving is not None
        self._epochs = {
            epoch: documents
            for epoch, documents in self._epochs.items()
            if epoch in (serving.epoch, changes.epoch)
        }

    def _knowledge(self) -> RegionKnowledge:
        """One release, of which all that there is to know is known."""
        pulse = Pulse(
            freshness=Freshness(read_ms=self._clock.wall_ms(), position=1),
            store_id=STORE_ID,
            last_release=1,
        )
        return RegionKnowledge(_view(), pulse, skew_max_ms=SKEW_MAX_MS)


@functools.cache
def _view() -> RegionView:
    release = replace(release_view(1), corpora={CORPUS: corpus_view(CORPUS)})
    switch = Switch(release=1, at_ms=0, position=1)
    return RegionView(region="here", releases={1: release}, switches=(switch,))
