"""The live documents of one corpus, on the event loop: what waits for the corpus's thread, and who
follows what it tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from actors.mutations.log_thread import LogNews, LogThread, ReadingEnd
from actors.mutations.shared_queue import SharedQueue
from cluster.clock import Clock, Deadline
from cluster.deltas.changes import Changes
from cluster.deltas.feed import Feed
from cluster.deltas.followers import Followers
from cluster.errors import (
    DeadlineExceeded,
    NotYet,
    OutcomeUnknown,
    Overloaded,
    RaygionError,
    Unavailable,
)
from cluster.metadata import Metadata
from cluster.mutations.conflicts import Versions
from cluster.mutations.group_commit import PendingWrite
from cluster.mutations.mutation import Write
from cluster.mutations.region_writer import Outcome
from cluster.mutations.requests import CorpusDocuments, DocumentsPosition
from cluster.mutations.watermark import HeldMutations, Watermark

_FULL_RETRY_S = 60.0
_LOOK_S = 0.5
"""Time between two looks for followers that have gone away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentBounds:
    """How much of live documents an actor takes."""

    rows_max: int = 100_000
    """Rows of a corpus that its index does not hold; with more, only a compaction makes room."""
    bytes_max: int = 512 * 2**20
    """Bytes of these rows."""
    under_way_bytes_max: int = 128 * 2**20
    """Bytes of all documents that are being prepared, wait, or are appended."""


OpenThread: TypeAlias = Callable[[SharedQueue, Callable[[LogNews], None]], LogThread]


class CorpusFeed:
    """Takes writes to the corpus's thread, and numbers what it tells. For one event loop.

    The thread is started by the first write, or when somebody has written a log: most corpora have
    none, and cost nothing.
    """

    def __init__(
        self,
        corpus: str,
        region: str,
        open_thread: OpenThread,
        *,
        learn: Callable[[Iterable[Metadata]], None],
        grown: Callable[[int], None],
        clock: Clock,
        bounds: DocumentBounds,
        alive_s: float,
    ) -> None:
        """`open_thread`: makes the thread for a queue, and for whoever is told its news. `learn`
        gets the metadata of the documents that are in the logs. `grown` is told how far this
        region's log has come. `alive_s`: as for `Followers`.
        """
        self._corpus = corpus
        self._region = region
        self._open_thread = open_thread
        self._learn = learn
        self._grown = grown
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._queue = SharedQueue()
        self._thread: LogThread | None = None
        self._held = self._latest = HeldMutations()
        self._feed = _new_feed()
        self._bounds = bounds
        self._followers = Followers(alive_s)
        self._changed = asyncio.Event()
        """Set, and replaced, at each change of what somebody may wait for."""
        self._tickets = itertools.count(1)
        self._settling: dict[int, asyncio.Future[Outcome]] = {}
        self._reading = ReadingEnd(number=0, began_ms=0, error=None)
        self._stopped: Mapping[str, RaygionError] = {}
        self._digest = ""

    @property
    def has_thread(self) -> bool:
        return self._thread is not None

    def start(self) -> LogThread:
        """Starts the thread, or finds it started."""
        if self._thread is None:

            def tell(news: LogNews) -> None:
                # The loop is closed when the process ends.
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._take, news)

            self._thread = self._open_thread(self._queue, tell)
            self._thread.start()
        return self._thread

    def stop(self) -> None:
        """Ends the thread soon; what waits is not written."""
        if self._thread is not None:
            self._thread.stop()

    def hold(self, held: HeldMutations, latest: HeldMutations) -> None:
        """The bases of all resident releases hold the mutations of `held`, and one of them holds
        those of `latest`.
        """
        if self._thread is None or self._held <= held:
            self._feed.hold(held, latest)
            self._notify()
        else:
            # Some base lacks what the feed has dropped, and deletes that the fold has forgotten.
            self._thread.read_anew()
        self._held, self._latest = held, latest

    def has_no_log(self, read_ms: int) -> None:
        """A look that began at this moment of the wall clock has found no log of the corpus."""
        if self._thread is None:
            self._feed.has_read(read_ms)

    async def write(
        self, writes: Sequence[Write | RaygionError], deadline: Deadline
    ) -> tuple[Outcome, ...]:
        """The end of each write, in their order; an error stands for itself."""
        thread = self.start()
        outcomes: dict[int, Outcome] = {}
        tickets: dict[int, int] = {}
        for n, write in enumerate(writes):
            try:
                if isinstance(write, RaygionError):
                    raise write
                tickets[self._offer(write, deadline)] = n
            except RaygionError as error:
                outcomes[n] = error
        thread.wake()
        for ticket, outcome in (await self._settled(tickets, deadline)).items():
            outcomes[tickets[ticket]] = outcome
        return tuple(outcomes[n] for n in range(len(writes)))

    async def follow(self, epoch: str, version: int, poll_s: float, process: str) -> Changes:
        """What leads from that version of that epoch to the present one, as soon as there is more,
        or after `poll_s`. `process` names whoever follows.
        """
        self._followers.polls(process, epoch, version, self._clock.monotonic_s())
        self._notify()
        try:
            await self._wait(lambda: self._feed.is_news(epoch, version), poll_s)
        finally:
            self._followers.has_polled(process, self._clock.monotonic_s())
        return self._feed.since(epoch, version)

    async def changes_after(self, watermark: Watermark, poll_s: float) -> Changes:
        """What may be news to a state with that watermark, as soon as there is any, or after
        `poll_s`.
        """
        epoch, version = self._feed.position.epoch, self._feed.version_at(watermark)
        await self._wait(lambda: self._feed.is_news(epoch, version), poll_s)
        return self._feed.since(epoch, version)

    async def refresh(self, timeout_s: float) -> DocumentsPosition:
        """The position after a reading of all logs to their ends that began after this call.

        Raises Unavailable when a log cannot be read.
        """
        number = self.start().ask_for_reading()
        if not await self._wait(lambda: self._reading.number >= number, timeout_s):
            raise Unavailable(
                f"the logs of the documents of {self._corpus!r} are not read in time: the store "
                "does not answer"
            )
        if self._reading.error is not None:
            raise Unavailable(
                f"the logs of the documents of {self._corpus!r} cannot all be read to their ends: "
                f"{self._reading.error}"
            )
        return self._feed.position

    async def reached(self, watermark: Watermark, timeout_s: float) -> DocumentsPosition:
        """The position once it has come to the watermark; the logs are read at once for that.

        Raises NotYet when it has not in time.
        """
        if not watermark <= self._feed.position.watermark:
            self.start().ask_for_reading()
        if not await self._wait(lambda: watermark <= self._feed.position.watermark, timeout_s):
            raise NotYet(
                f"this region has not read yet what was written to the corpus {self._corpus!r} "
                "elsewhere; try again shortly"
            )
        return self._feed.position

    async def await_visible(self, watermark: Watermark, timeout_s: float) -> DocumentsPosition:
        """The position once it has come to the watermark, and each process of the region that
        follows has taken that in.

        Raises NotYet when the position is not there in time, DeadlineExceeded for the processes.
        """
        deadline = Deadline.after(timeout_s, self._clock)
        position = await self.reached(watermark, timeout_s)

        def all_have() -> bool:
            now = self._feed.position
            version = position.version if position.epoch == now.epoch else now.version
            return self._followers.have(now.epoch, version, self._clock.monotonic_s())

        while not await self._wait(all_have, min(_LOOK_S, deadline.remaining_s())):
            if deadline.expired():
                raise DeadlineExceeded(
                    "the write is stored, but not all processes of the region show it yet"
                )
        return self._feed.position

    def versions(self, document: str) -> Versions:
        """What is kept of the document beyond the bases, its delete included."""
        return self._feed.versions(document)

    def status(self) -> CorpusDocuments:
        error = self._reading.error
        return CorpusDocuments(
            position=self._feed.position,
            has_log=self._thread is not None,
            digest=self._digest,
            num_rows=self._feed.num_rows,
            size_bytes=self._feed.size_bytes,
            waiting=len(self._settling),
            unreadable={region: error.message for region, error in self._stopped.items()},
            trouble="" if error is None else error.message,
        )

    def _offer(self, write: Write, deadline: Deadline) -> int:
        if self._region in self._stopped:
            raise Unavailable(
                f"this region cannot write to the corpus {self._corpus!r} before its log is "
                f"mended: {self._stopped[self._region]}"
            )
        num_rows, size_bytes = self._feed.unheld_rows, self._feed.unheld_bytes
        # What is to go can always go.
        is_full = num_rows >= self._bounds.rows_max or size_bytes >= self._bounds.bytes_max
        if is_full and write.content is not None:
            raise Overloaded(
                f"the corpus {self._corpus!r} has {num_rows} rows and "
                f"{size_bytes} bytes of documents that its index does not hold yet; "
                "run `raygion compact`, then write again",
                _FULL_RETRY_S,
            )
        ticket = next(self._tickets)
        self._queue.offer(PendingWrite(ticket, _in_own_memory(write), deadline.at_s))
        self._settling[ticket] = self._loop.create_future()
        return ticket

    async def _settled(self, tickets: Mapping[int, int], deadline: Deadline) -> dict[int, Outcome]:
        """What became of the writes; those are withdrawn for which nobody waits any more."""
        futures = {ticket: self._settling[ticket] for ticket in tickets}
        try:
            if futures:
                await asyncio.wait(futures.values(), timeout=deadline.remaining_s())
        finally:
            left = {ticket for ticket, future in futures.items() if not future.done()}
            withdrawn = self._queue.withdraw(left) if left else frozenset()
            for ticket in tickets:
                del self._settling[ticket]
        return {
            ticket: future.result() if future.done() else _not_in_time(ticket in withdrawn)
            for ticket, future in futures.items()
        }

    def _take(self, news: LogNews) -> None:
        """Takes in what the thread has come to."""
        if news.is_anew:
            self._feed = _new_feed()
            self._feed.hold(self._held, self._latest)
        current = (kept[-1].content for kept in news.changed.values())
        self._learn(content.metadata for content in current if content is not None)
        before = self._feed.position.watermark[self._region]
        self._feed.take(news.changed, news.watermark)
        if (position := news.watermark[self._region]) > before:
            self._grown(position)
        self._digest, self._stopped = news.digest, news.stopped
        if news.reading is not None:
            self._reading = news.reading
            if news.reading.error is None:
                self._feed.has_read(news.reading.began_ms)
        for ticket, outcome in news.settled:
            future = self._settling.get(ticket)
            if future is not None and not future.done():
                future.set_result(outcome)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait(self, holds: Callable[[], bool], timeout_s: float) -> bool:
        """Returns once something holds, or after the time with whether it does."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not holds():
                    await self._changed.wait()
        return holds()


def _new_feed() -> Feed:
    return Feed(lambda: uuid.uuid4().hex)


def _in_own_memory(write: Write) -> Write:
    """With vectors that keep no memory but their own. What has come by a call of an actor lies in
    Ray's shared memory, all of which one vector would keep for as long as its document is kept.
    """
    content = write.content
    if content is None or content.vectors is None or content.vectors.flags.owndata:
        return write
    return replace(write, content=replace(content, vectors=content.vectors.copy()))


def _not_in_time(withdrawn: bool) -> RaygionError:
    if withdrawn:
        return DeadlineExceeded("time ran out before the write could be stored")
    return OutcomeUnknown(
        "whether the write is stored is not known: the store does not answer in time; ask again "
        "with the same key"
    )
