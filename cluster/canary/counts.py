"""The outcomes of requests while a region tries a canary, counted in gateways for each release.

Counted are the requests that were given to one of the two releases by lot. A mistake of the
caller's own says nothing of a release. A request that waits still, or whose caller left, counts as
having taken that long: so what hangs is seen before its time is over.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from cluster.clock import Clock
from cluster.errors import DeadlineExceeded, RaygionError
from cluster.query.answers import AnswerEvent, AnswerResult, Token
from cluster.query.search import AS_TUNED, SearchRequest

_LEAST_S = 1e-4
_STEP = 1.1
"""Times are kept in classes, each a tenth longer than the one before."""
_CLASS_MAX = 170
_SERVER_ERRORS_FROM = 500


class Work(StrEnum):
    SEARCH = "searches"
    ANSWER = "answers"


class Measure(StrEnum):
    """The kinds of work that are timed: only those that take the same time for every caller."""

    TEXT_SEARCH = "searches by text"
    VECTOR_SEARCH = "searches by vector"
    FIRST_TOKEN = "first tokens"
    TOKEN = "tokens"


_PATIENCE_MIN_S = {Work.SEARCH: 1.0, Work.ANSWER: 10.0}
"""A timeout shorter than this is the caller's choice and is not counted against the release."""


def class_of(took_s: float) -> int:
    if took_s <= _LEAST_S:
        return 0
    return min(_CLASS_MAX, math.ceil(math.log(took_s / _LEAST_S, _STEP)))


def longest_s(time_class: int) -> float:
    """The longest time in the class."""
    return _LEAST_S * _STEP**time_class


@dataclass(slots=True)
class Tally:
    """Outcomes of the requests that one release served."""

    ended: Counter[Work] = field(default_factory=Counter)
    """Requests that failed or were answered."""
    failed: Counter[Work] = field(default_factory=Counter)
    times: Counter[tuple[Measure, int]] = field(default_factory=Counter)
    """Numbers of durations, by class of time."""

    def __bool__(self) -> bool:
        return bool(self.ended or self.times)

    def add(self, other: Tally) -> None:
        self.ended.update(other.ended)
        self.failed.update(other.failed)
        self.times.update(other.times)


@dataclass(slots=True)
class Sides:
    """The outcomes of the canary, and of the current release beside it."""

    canary: Tally = field(default_factory=Tally)
    current: Tally = field(default_factory=Tally)

    def __bool__(self) -> bool:
        return bool(self.canary or self.current)

    def of(self, is_canarys: bool) -> Tally:
        return self.canary if is_canarys else self.current

    def add(self, other: Sides) -> None:
        self.canary.add(other.canary)
        self.current.add(other.current)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeReport:
    """The counts of one process since its last report."""

    reporter: str
    release: int
    """Number of the canary."""
    ended: Sides
    waiting: Sides
    """Times so far of the requests that wait at this moment."""


def measure_of(request: SearchRequest) -> Measure | None:
    """The kind of work by which the search is timed; None for one that may take any time."""
    if request.filter is not None or request.effort != AS_TUNED:
        return None
    if request.queries is not None:
        return Measure.TEXT_SEARCH if len(request.queries) == 1 else None
    alone = request.vectors is not None and len(request.vectors) == 1
    return Measure.VECTOR_SEARCH if alone else None


@dataclass(slots=True, eq=False)
class _Request:
    """One request under way."""

    canary: int
    """Canary that the request is counted for, whichever of the two releases serves it."""
    is_canarys: bool
    since_s: float
    measure: Measure | None
    """Kind of work that the request's time so far belongs to; None when it has been counted, or
    does not matter.
    """


class OutcomeCounts:
    """Counts in one process; one event loop makes all calls. Holds a request only as long as it is
    under way.
    """

    def __init__(self, reporter: str, clock: Clock) -> None:
        self._reporter = reporter
        self._clock = clock
        self._canary: int | None = None
        self._ended = Sides()
        self._under_way: set[_Request] = set()

    @property
    def counting(self) -> bool:
        return self._canary is not None

    def follow(self, canary: int | None) -> None:
        """Counts for this canary from now on; what was counted for another one is forgotten."""
        if canary != self._canary:
            self._canary = canary
            self._ended = Sides()

    @contextmanager
    def search(self, asked: SearchRequest, release: int) -> Iterator[None]:
        """Counts how the block ends, in which the release serves what was asked."""
        with self._watching(Work.SEARCH, measure_of(asked), release, asked.timeout_s):
            yield

    async def answer(
        self, events: AsyncGenerator[AnswerEvent, None], release: int, timeout_s: float
    ) -> AsyncGenerator[AnswerEvent, None]:
        """The same events, which the release makes. The time in which nobody waits for the next one
        is not counted.
        """
        first_s = 0.0
        with self._watching(Work.ANSWER, Measure.FIRST_TOKEN, release, timeout_s) as request:
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Token) and request.measure is not None:
                        first_s = self._waited_s(request)
                        self._count_time(request)
                    elif isinstance(event, AnswerResult) and event.usage.completion_tokens > 1:
                        pace_s = self._waited_s(request) - first_s
                        self._count(request, Measure.TOKEN, pace_s / event.usage.completion_tokens)
                    left_s = self._clock.monotonic_s()
                    try:
                        yield event
                    finally:
                        request.since_s += self._clock.monotonic_s() - left_s

    def take(self) -> OutcomeReport | None:
        """The counts since the last call; None when there are none."""
        if self._canary is None or not (self._under_way or self._ended):
            return None
        waiting = Sides()
        for request in self._under_way:
            if request.canary == self._canary and request.measure is not None:
                time_class = class_of(self._waited_s(request))
                waiting.of(request.is_canarys).times[request.measure, time_class] += 1
        report = OutcomeReport(
            reporter=self._reporter, release=self._canary, ended=self._ended, waiting=waiting
        )
        self._ended = Sides()
        return report

    @contextmanager
    def _watching(
        self, work: Work, measure: Measure | None, release: int, timeout_s: float
    ) -> Iterator[_Request]:
        assert self._canary is not None, "requests are counted only beside a canary"
        request = _Request(
            canary=self._canary,
            is_canarys=release == self._canary,
            since_s=self._clock.monotonic_s(),
            measure=measure,
        )
        self._under_way.add(request)
        try:
            yield request
        except (asyncio.CancelledError, GeneratorExit):
            self._count_time(request)
            raise
        except Exception as error:
            if _is_its_fault(error, impatient=timeout_s < _PATIENCE_MIN_S[work]):
                self._count_end(request, work, failed=True)
            raise
        else:
            self._count_end(request, work, failed=False)
            self._count_time(request)
        finally:
            self._under_way.discard(request)

    def _count_end(self, request: _Request, work: Work, *, failed: bool) -> None:
        if request.canary == self._canary:
            tally = self._ended.of(request.is_canarys)
            tally.ended[work] += 1
            tally.failed[work] += failed

    def _count_time(self, request: _Request) -> None:
        if request.measure is not None:
            self._count(request, request.measure, self._waited_s(request))
            request.measure = None

    def _count(self, request: _Request, measure: Measure, took_s: float) -> None:
        if request.canary == self._canary:
            self._ended.of(request.is_canarys).times[measure, class_of(took_s)] += 1

    def _waited_s(self, request: _Request) -> float:
        return self._clock.monotonic_s() - request.since_s


def _is_its_fault(error: Exception, *, impatient: bool) -> bool:
    """True when the release may have caused the error; False when the caller did."""
    if isinstance(error, DeadlineExceeded):
        return not impatient
    return not isinstance(error, RaygionError) or error.http_status >= _SERVER_ERRORS_FROM
