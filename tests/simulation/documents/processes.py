"""The processes of a region that write and read documents, around the code that production runs."""

from __future__ import annotations

import copy
import functools
import itertools
import random
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from cluster.deltas.feed import Feed
from cluster.errors import LogUnreadable, NotFound, OutcomeUnknown, RaygionError, Unavailable
from cluster.mutations.batch import Batch
from cluster.mutations.fold import DocumentFold, digest_of
from cluster.mutations.group_commit import GroupCommit, GroupLimits, PendingWrite
from cluster.mutations.hybrid_clock import HybridClock
from cluster.mutations.log_writer import LogWriter
from cluster.mutations.mutation import Mutation, Write
from cluster.mutations.mutation_log import Reading
from cluster.mutations.region_writer import RegionWriter, Written
from cluster.mutations.requests import DocumentsPosition
from cluster.mutations.store_log import StoreMutationLog
from cluster.mutations.watermark import Watermark
from tests.simulation.clocks.sim_time import Process, Signal
from tests.simulation.documents.history import Asked, State
from tests.simulation.world.faulty_store import FaultyStore
from tests.simulation.world.regions import SKEW_MAX_MS, RegionClock

if TYPE_CHECKING:
    from tests.simulation.documents.gateways import DocumentGateway
    from tests.simulation.documents.world import DocumentWorld

T = TypeVar("T")
CORPUS = "tickets"
FANOUT = 2
"""Logs are short here, so blocks are small."""
TICK_S = 1.0
DIGESTS_EVERY = 4
"""States, of which one has its digest computed from scratch: it takes long."""
LIMITS = GroupLimits(mutations_max=3, queue_mutations_max=8)


class StoreProcess(Process):
    """A process of a region that reads the logs."""

    def __init__(self, world: DocumentWorld, region: DocumentRegion, name: str) -> None:
        super().__init__(world.scheduler, name)
        self.world = world
        self.region = region
        self.rng = random.Random(f"{world.seed}/{name}")
        self.store = FaultyStore(
            world.objects, world.network, self, region.name, self.rng, world.weather
        )
        self.log = StoreMutationLog(
            self.store, CORPUS, rng=self.rng, sleep=self.sleep, fanout=FANOUT
        )


class Base:
    """What a build makes of the logs up to a watermark: a start without what came before."""

    def __init__(self, reader: RegionWriter) -> None:
        self._fold = copied(reader.fold)
        self._keys = copied(reader._keys)
        self.watermark = self._fold.watermark

    def put_into(self, reader: RegionWriter) -> None:
        reader.fold, reader._keys = copied(self._fold), copied(self._keys)

    def fold(self) -> DocumentFold:
        return copied(self._fold)


def copied(state: T) -> T:
    """With containers of its own, of the same immutable values."""
    twin = copy.copy(state)
    for name, value in vars(state).items():
        if isinstance(value, dict):
            setattr(twin, name, dict(value))
    return twin


class DocumentRegion:
    """What lives on when the region's processes die."""

    def __init__(self, name: str, clock: RegionClock) -> None:
        self.name = name
        self.clock = clock
        self.lives = 0
        self.writers: list[WriterProcess] = []
        """Those that may live, the one that is meant to be there last."""
        self.reader: ReaderProcess | None = None
        self.gateway: DocumentGateway | None = None

    def hear(self, batch: Batch) -> None:
        if self.reader is not None and not self.reader.killed:
            self.reader.hear(batch)


class WriterProcess(StoreProcess):
    """One life of the writer of a region's log."""

    def __init__(self, world: DocumentWorld, region: DocumentRegion) -> None:
        region.lives += 1
        super().__init__(world, region, f"{region.name}/writer-{region.lives}")
        self.writer = RegionWriter(
            CORPUS,
            region.name,
            policy=world.policy,
            clock=HybridClock(region.name, region.clock, skew_max_ms=SKEW_MAX_MS),
            queue=GroupCommit(LIMITS),
        )
        self.dozes_until_s = 0.0
        self._waiting: dict[int, Asked] = {}
        self._woken = Signal(world.scheduler)
        self._tickets = 0
        self._is_current = False
        """Whether it has read all there was: before that it appends nothing."""

    def submit(self, asked: Asked, write: Write) -> None:
        """Raises Overloaded."""
        self._tickets += 1
        expires_s = self.scheduler.now_s + 8.0
        self.writer.submit(PendingWrite(self._tickets, write, expires_s))
        self._waiting[self._tickets] = asked
        self._woken.give()

    def body(self) -> None:
        if self.world.bases:
            self.world.bases[-1].put_into(self.writer)
        at_work = LogWriter(
            self.log,
            self.writer,
            appended=self._share,
            clock=self.region.clock,
            append_timeout_s=2.0,
        )
        while True:
            self.sleep(max(0.0, self.dozes_until_s - self.scheduler.now_s))
            try:
                if not self._is_current:
                    self._catch_up(at_work)
                    self.sleep(0.0 if self._is_current else TICK_S)
                    continue
                has_appended = at_work.step()
                self._told()
                if not has_appended:
                    self._woken.wait(self, TICK_S)
                    if not len(self.writer.queue):
                        self._catch_up(at_work)
            except Unavailable:
                self.sleep(0.2)
            except RaygionError as error:
                # Its log cannot be followed, or it has been trimmed: another one starts anew.
                self.world.history.accidents.append((self.scheduler.now_s, f"{self.name}: {error}"))
                return

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def _catch_up(self, at_work: LogWriter) -> None:
        """Raises NotFound when it has to start anew, from a later base."""
        stopped = at_work.catch_up().stopped
        for error in stopped.values():
            if isinstance(error, NotFound):
                raise error
        self._is_current = self._is_current or not stopped

    def _told(self) -> None:
        for ticket, outcome in self.writer.settled():
            asked = self._waiting.pop(ticket, None)
            if asked is None or asked.told_s is not None:
                continue
            asked.told_s = self.scheduler.now_s
            if isinstance(outcome, Written):
                asked.outcome, asked.version = "written", str(outcome.version)
                asked.position = outcome.position
            else:
                asked.outcome = type(outcome).__name__

    def _share(self, batch: Batch) -> None:
        """Pushes it to all regions, and stores the spans that end with it."""
        self._told()
        for region in self.world.regions.values():
            self.world.network.send(
                self.region.name, region.name, functools.partial(region.hear, batch)
            )
        # No span is made of a log that is broken.
        with suppress(Unavailable, OutcomeUnknown, LogUnreadable):
            self.log.store_spans(self.world.policy, self.region.name, batch.last)


@dataclass(frozen=True, slots=True)
class ReadingEnd:
    """A reading that has ended."""

    number: int
    is_complete: bool = False
    has_more: bool = False
    """Whether the next one goes on at once."""


class ReaderProcess(StoreProcess):
    """What a region knows of all logs: by what it is told, and by reading."""

    def __init__(self, world: DocumentWorld, region: DocumentRegion) -> None:
        region.lives += 1
        super().__init__(world, region, f"{region.name}/reader-{region.lives}")
        base = world.bases[-1] if world.bases else None
        self.fold = DocumentFold(world.policy) if base is None else base.fold()
        self.feed = Feed(
            functools.partial(next, map(f"{self.name}/{{}}".format, itertools.count()))
        )
        self._begun = 0
        """Readings that have begun."""
        self._last = ReadingEnd(0)
        self._has_ended = Signal(world.scheduler)
        self._woken = Signal(world.scheduler)
        if base is not None:
            of_base = {v.document: self.fold.versions(v.document) for v in self.fold.live()}
            self.feed.take(of_base, self.fold.watermark)

    def hear(self, batch: Batch) -> None:
        before = self.fold.watermark
        if not self.fold.apply(batch):
            self._woken.give()
        self._note(before)

    def refresh(self, caller: Process, until_s: float) -> DocumentsPosition:
        """In the caller's process: the position after a reading to the ends of all logs that began
        after this call. Raises Unavailable.
        """
        number = self._begun + 1
        self._woken.give()
        while self._last.number < number or self._last.has_more:
            wait_s = until_s - self.scheduler.now_s
            if wait_s <= 0.0 or self.killed or self.ended:
                raise Unavailable("the logs are not read in time")
            self._has_ended.wait(caller, wait_s)
        if not self._last.is_complete:
            raise Unavailable("the logs cannot all be read to their ends")
        return self.feed.position

    def body(self) -> None:
        while True:
            began_ms = self.region.clock.wall_ms()
            self._begun += 1
            try:
                reading = self.log.read_after(self.fold.watermark)
            except Unavailable:
                self._end(ReadingEnd(self._begun))
                self._woken.wait(self, TICK_S)
                continue
            if any(isinstance(error, NotFound) for error in reading.stopped.values()):
                return  # and start anew, from a later base
            for batch in reading.batches:
                before = self.fold.watermark
                self.fold.apply(batch)
                self._note(before)
            is_complete = self._is_complete(reading)
            if is_complete:
                self.feed.has_read(began_ms)
            has_more = bool(reading.batches) and not is_complete
            self._end(ReadingEnd(self._begun, is_complete, has_more))
            stable = self.fold.stable_time(self.world.regions)
            if stable is not None and self.rng.random() < 0.3:
                self.fold.forget_deletes(stable)
            if not reading.batches:
                self._woken.wait(self, TICK_S)

    def _is_complete(self, reading: Reading) -> bool:
        return not reading.stopped and reading.head <= self.fold.watermark

    def _end(self, ended: ReadingEnd) -> None:
        self._last = ended
        self._has_ended.give()

    def _note(self, before: Watermark) -> None:
        fold = self.fold
        if fold.watermark == before:
            return
        self.feed.take(fold.take_changed(), fold.watermark)
        live, states = list(fold.live()), self.world.history.states
        states.append(
            State(
                self.scheduler.now_s,
                self.name,
                fold.watermark.as_dict(),
                fold.digest,
                None if len(states) % DIGESTS_EVERY else digest_of(live),
                _documents(live),
            )
        )


def _documents(live: list[Mutation]) -> dict[str, tuple[str, ...]]:
    documents: dict[str, tuple[str, ...]] = {}
    for version in live:
        siblings = documents.get(version.document, ())
        documents[version.document] = tuple(sorted([*siblings, str(version.time)]))
    return documents
