"""The thread of one corpus that appends to the log of its region and reads the logs of all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field

from actors.mutations.shared_queue import SharedQueue
from cluster.clock import SYSTEM_CLOCK, Backoff, Clock, system_rng
from cluster.errors import LogUnreadable, NotFound, RaygionError, Unavailable
from cluster.logs.events import EventLog
from cluster.mutations.batch import Batch
from cluster.mutations.conflicts import ConflictPolicy, Versions
from cluster.mutations.hybrid_clock import HybridClock
from cluster.mutations.log_writer import LogWriter
from cluster.mutations.region_writer import Outcome, RegionWriter
from cluster.mutations.spans import FANOUT
from cluster.mutations.store_log import StoreMutationLog
from cluster.mutations.watermark import Watermark

log = EventLog(__name__)

POLL_S = 1.0
"""Time between two readings of the logs that nobody asks for."""
_FORGET_S = 60.0
"""Time between two looks for deletes that need not be kept any more."""
_ANEW = Backoff(initial_s=1.0, wait_max_s=30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingEnd:
    """The end of a reading of all regions' logs."""

    number: int
    began_ms: int
    error: RaygionError | None
    """None: all logs were read to their ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogNews:
    """What the thread has come to since it told last."""

    settled: tuple[tuple[int, Outcome], ...]
    """What became of writes, by their tickets."""
    changed: Mapping[str, Versions]
    """What is kept of the documents that have changed."""
    watermark: Watermark
    digest: str
    """Of the documents at the watermark."""
    reading: ReadingEnd | None
    """The reading that has ended, if one has."""
    stopped: Mapping[str, RaygionError] = field(default_factory=dict)
    """Why the logs of regions cannot be read further."""
    is_anew: bool = False
    """True when the logs are read from their beginning again, and what was told before is void."""


class LogThread:
    """Owns the writer of the corpus and the fold of all logs, and tells what they come to.

    The thread waits for the store; the methods, which other threads call, wait for nothing. What
    fails is tried again by a later turn. A writer that cannot follow its own log any more comes to
    its end, and another one starts from what the logs say; what waits in the queue waits for that.
    """

    def __init__(
        self,
        corpus: str,
        region: str,
        *,
        mutations: StoreMutationLog,
        queue: SharedQueue,
        stamps: HybridClock,
        policy: ConflictPolicy,
        writing: Collection[str],
        news: Callable[[LogNews], None],
        spans: Executor,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`writing`: the regions that may write the corpus. `news` is called from the thread.
        `spans` stores spans, which nobody waits for.
        """
        self._corpus = corpus
        self._region = region
        self._mutations = mutations
        self._queue = queue
        self._stamps = stamps
        self._policy = policy
        self._writing = writing
        self._news = news
        self._spans = spans
        self._clock = clock
        self._rng = system_rng()
        self._woken = threading.Event()
        self._ending = threading.Event()
        self._begun = 0
        """Readings that have begun."""
        self._wanted = 0
        """The reading that somebody waits for."""
        self._read_at_s = float("-inf")
        """When the next reading begins that nobody asks for."""
        self._forget_at_s = float("-inf")
        self._stopped: Mapping[str, RaygionError] = {}
        self._told, self._digest = Watermark(), ""
        self._is_void = False
        """True when what was told has to be told anew."""
        self._failures = 0
        """Writers in a row that have come to their ends before they had read all logs."""
        self._trouble = ""
        """Error of the last reading; empty if it succeeded."""
        self._writer: RegionWriter
        self._at_work: LogWriter
        self._start_writer()

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"log of {self._corpus}", daemon=True).start()

    # For other threads.

    def stop(self) -> None:
        """Ends the thread soon. What waits in the queue is not appended."""
        self._ending.set()
        self._woken.set()

    def wake(self) -> None:
        """There is something in the queue."""
        self._woken.set()

    def ask_for_reading(self) -> int:
        """Has the logs read at once; the number of the next reading that begins."""
        self._wanted = self._begun + 1
        self._woken.set()
        return self._wanted

    def read_anew(self) -> None:
        """Has the logs read from their beginning, and all that they come to told once more."""
        self._is_void = True
        self._woken.set()

    # The thread itself.

    def _run(self) -> None:
        while not self._ending.is_set():
            self._woken.clear()
            wait_s = self.turn()
            if wait_s > 0:
                self._woken.wait(wait_s)

    def turn(self) -> float:
        """Reads the logs if that is due, and makes an append if something waits. Returns the time
        in seconds until the next turn is due, unless the thread is woken.
        """
        try:
            if self._is_void:
                self._take_back()
            if self._begun < self._wanted or self._clock.monotonic_s() >= self._read_at_s:
                self._read()
            has_appended = self._may_append and self._at_work.step()
        except (NotFound, LogUnreadable) as error:
            self._start_anew(error)
            has_appended = False
        except Exception as error:
            # This thread is the corpus's writer: a bug in one turn must not end all turns.
            log.error(
                "mutations.turn_failed",
                "a turn of the writer of {corpus} failed: {error}",
                corpus=self._corpus,
                error=error,
                traceback_of=error,
            )
            self._start_anew(Unavailable("the region's writer failed"))
            has_appended = False
        self._tell()
        return 0.0 if has_appended else self._read_at_s - self._clock.monotonic_s()

    def _read(self) -> None:
        began_ms = self._clock.wall_ms()
        self._begun += 1
        error: RaygionError | None = None
        try:
            while (reading := self._at_work.read()).batches:
                # In pieces, of which each is taken in fast.
                self._tell()
            self._stopped = reading.stopped
        except RaygionError as failed:
            error = failed
        else:
            self._may_append = self._region not in self._stopped
            error = next(iter(self._stopped.values()), None)
        self._note(error)
        self._read_at_s = self._clock.monotonic_s() + POLL_S
        self._tell(ReadingEnd(number=self._begun, began_ms=began_ms, error=error))
        for stopped in self._stopped.values():
            if isinstance(stopped, NotFound):
                # The log was trimmed away up to where it would have to be read on.
                raise stopped
        if error is None:
            self._failures = 0
            self._forget_deletes()

    def _take_back(self) -> None:
        self._is_void = False
        self._end_writer(Unavailable("an older release is served again"))
        self._told = Watermark()
        self._tell(is_anew=True)
        self._read_at_s = float("-inf")

    def _note(self, error: RaygionError | None) -> None:
        trouble = "" if error is None else error.message
        # Once: the next readings, one a second, may well fail in the same way.
        if trouble and trouble != self._trouble:
            log.warning(
                "mutations.not_read",
                "the logs of {corpus} cannot all be read to their ends: {error}",
                corpus=self._corpus,
                error=error,
            )
        self._trouble = trouble

    def _forget_deletes(self) -> None:
        now_s = self._clock.monotonic_s()
        stable = self._writer.fold.stable_time(self._writing)
        if stable is not None and now_s >= self._forget_at_s:
            self._writer.fold.forget_deletes(stable)
            self._forget_at_s = now_s + _FORGET_S

    def _start_writer(self) -> None:
        self._may_append = False
        """Not before all of this region's log was read: its end is where an append goes."""
        self._writer = RegionWriter(
            self._corpus, self._region, policy=self._policy, clock=self._stamps, queue=self._queue
        )
        self._at_work = LogWriter(
            self._mutations, self._writer, appended=self._appended, clock=self._clock
        )

    def _end_writer(self, reason: RaygionError) -> None:
        self._writer.give_up(reason)
        self._tell()
        self._start_writer()

    def _start_anew(self, reason: RaygionError) -> None:
        wait_s = _ANEW.wait_s(self._failures, self._rng)
        log.warning(
            "mutations.writer_ends",
            "the writer of {corpus} starts anew in {wait_s:.1f} s: {error}",
            corpus=self._corpus,
            wait_s=wait_s,
            error=reason,
        )
        self._failures += 1
        self._end_writer(reason)
        self._read_at_s = self._clock.monotonic_s() + wait_s

    def _tell(self, reading: ReadingEnd | None = None, *, is_anew: bool = False) -> None:
        fold, settled = self._writer.fold, self._writer.settled()
        before = self._told
        changed: Mapping[str, Versions] = {}
        # A fold that has started anew says nothing before it has come as far as the last one.
        if before <= fold.watermark:
            changed = fold.take_changed()
            self._told, self._digest = fold.watermark, fold.digest
        if settled or reading is not None or is_anew or self._told != before:
            self._news(
                LogNews(
                    settled=tuple(settled),
                    changed=changed,
                    watermark=self._told,
                    digest=self._digest,
                    reading=reading,
                    stopped=self._stopped,
                    is_anew=is_anew,
                )
            )

    def _appended(self, batch: Batch) -> None:
        self._tell()
        if batch.last % FANOUT == 0:
            self._spans.submit(self._store_spans, batch.last)

    def _store_spans(self, position: int) -> None:
        try:
            self._mutations.store_spans(self._policy, self._region, position)
        except RaygionError as error:
            log.warning(
                "mutations.no_span",
                "spans of the log of {corpus} up to {position} are not stored: {error}",
                corpus=self._corpus,
                position=position,
                error=error,
            )
