"""The users that a canary serves, and the judgement whether it does worse than the current release.

Each question ("how many searches failed?", "how many first tokens took twice as long as most do?")
divides the requests of both releases into good and bad ones. The canary is at fault when it has
more bad ones than chance would give it (Fisher's exact test, one-sided), when that makes a
difference to callers, and when it has lasted. It is asked again and again, so chance must be very
unlikely. `cluster.releases.rollout` then aborts the canary.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cluster.canary.counts import Measure, OutcomeReport, Sides, Tally, Work, class_of, longest_s

_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
_REPORT_LIFE_S = 6.0
"""Age beyond which a report says nothing of the requests that wait now."""


def lot_of(user: str, release: int) -> float:
    """The user's lot in [0, 1): the same for a release for ever, another one for each release."""
    digest = hashlib.blake2b(f"{release}:{user}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


class Lots:
    """Lots in [0, 1) for requests without a user: of any n in a row, each part of the range gets
    its share to within a few, which drawing at random would give only on average.
    """

    def __init__(self) -> None:
        self._last = 0.0

    def next(self) -> float:
        self._last = (self._last + _GOLDEN) % 1.0
        return self._last


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryLimits:
    """The limits beyond which a canary is at fault."""

    requests_min: int = 10
    """Number of requests below which the canary is not judged."""
    bad_min: int = 5
    chance_max: float = 1e-6
    """Probability that a canary as good as the current release is found at fault, each time the
    question is asked.
    """
    intervals_min: int = 3
    """Number of intervals of the window in which bad requests must lie: a hiccup is no fault."""
    slower: float = 2.0
    """Multiple of the current release's time beyond which a request took too long."""
    failed_more: float = 0.02
    """Amount by which the share of failed requests must exceed that of the current release."""
    slowest_more: float = 0.05
    """The same for requests that took too long, against the slowest twentieth of the current
    release.
    """
    typical_more: float = 0.3
    """The same for requests that took too long, against the median of the current release."""


_FLOORS_S = {
    Measure.TEXT_SEARCH: 0.02,
    Measure.VECTOR_SEARCH: 0.02,
    Measure.FIRST_TOKEN: 0.05,
    Measure.TOKEN: 0.005,
}
"""Least differences in time that matter, whatever the factor."""


def chance(bad: int, total: int, bad_beside: int, total_beside: int) -> float:
    """The probability that `bad` or more of all bad requests fall on this side by chance alone."""
    bad_all, all_ = bad + bad_beside, total + total_beside
    if bad * all_ <= total * bad_all:
        return 1.0
    term = math.exp(
        _log_choose(total, bad) + _log_choose(total_beside, bad_beside) - _log_choose(all_, bad_all)
    )
    likely = term
    for i in range(bad + 1, min(total, bad_all) + 1):
        term *= (total - i + 1) / i * (bad_all - i + 1) / (total_beside - bad_all + i)
        likely += term
        if term < likely * 1e-6:
            break
    return min(1.0, likely)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    of: str
    bad_are: str
    more: float
    """Amount by which the share of bad requests must exceed that of the current release."""
    count: Callable[[Tally], tuple[int, int]]
    """Counts the bad requests, and all."""


@dataclass(slots=True)
class _Window:
    """Outcomes of the last `intervals_max` intervals of `interval_s` each."""

    interval_s: float
    intervals_max: int
    _intervals: deque[tuple[int, Sides]] = field(default_factory=deque)

    @property
    def length_s(self) -> float:
        return self.interval_s * self.intervals_max

    def take(self, ended: Sides, now_s: float) -> None:
        interval = self.interval_at(now_s)
        if not self._intervals or self._intervals[-1][0] != interval:
            self._intervals.append((interval, Sides()))
        self._intervals[-1][1].add(ended)

    def interval_at(self, now_s: float) -> int:
        return int(now_s // self.interval_s)

    def intervals(self, now_s: float) -> list[tuple[int, Sides]]:
        while (
            self._intervals
            and self._intervals[0][0] <= self.interval_at(now_s) - self.intervals_max
        ):
            self._intervals.popleft()
        return list(self._intervals)


class CanaryBoard:
    """Collects the reports of all gateways of a region on one canary, and judges it."""

    def __init__(self, release: int, limits: CanaryLimits | None = None) -> None:
        self.release = release
        self._limits = limits or CanaryLimits()
        # The short one sees a sudden fault undiluted; the long one what a small share shows.
        self._windows = (_Window(2.0, 15), _Window(10.0, 60))
        self._waiting: dict[str, tuple[float, Sides]] = {}

    def take(self, report: OutcomeReport, now_s: float) -> None:
        for window in self._windows:
            window.take(report.ended, now_s)
        self._waiting[report.reporter] = (now_s, report.waiting)
        self._waiting = {
            reporter: (reported_s, waiting)
            for reporter, (reported_s, waiting) in self._waiting.items()
            if now_s - reported_s <= _REPORT_LIFE_S
        }

    def fault(self, now_s: float) -> str | None:
        """The canary's fault in words and numbers; None as long as no fault shows."""
        for window in self._windows:
            intervals = [*window.intervals(now_s), *self._waiting_since(window, now_s)]
            found = next(self._faults(intervals), None)
            if found is not None:
                return f"{found} in {window.length_s:.0f} s"
        return None

    def _waiting_since(self, window: _Window, now_s: float) -> Iterator[tuple[int, Sides]]:
        """The requests that wait, with the time at which they began to wait."""
        for reported_s, waiting in self._waiting.values():
            for is_canarys in (True, False):
                for (measure, time_class), number in waiting.of(is_canarys).times.items():
                    since = Sides()
                    since.of(is_canarys).times[measure, time_class] = number
                    yield window.interval_at(reported_s - longest_s(time_class)), since

    def _faults(self, intervals: list[tuple[int, Sides]]) -> Iterator[str]:
        total = Sides()
        for _, sides in intervals:
            total.add(sides)
        for question in self._questions(total.current):
            bad, among = question.count(total.canary)
            bad_beside, among_beside = question.count(total.current)
            if not self._is_worse(question, bad, among, bad_beside, among_beside):
                continue
            bad_intervals = {
                interval for interval, sides in intervals if question.count(sides.canary)[0]
            }
            if len(bad_intervals) >= self._limits.intervals_min:
                yield (
                    f"{bad} of {among} {question.of} {question.bad_are} "
                    f"(current release: {bad_beside} of {among_beside})"
                )

    def _is_worse(
        self, question: _Question, bad: int, among: int, bad_beside: int, among_beside: int
    ) -> bool:
        limits = self._limits
        if among < limits.requests_min or bad < limits.bad_min or not among_beside:
            return False
        if bad / among - bad_beside / among_beside < question.more:
            return False
        return chance(bad, among, bad_beside, among_beside) <= limits.chance_max

    def _questions(self, current: Tally) -> Iterator[_Question]:
        limits = self._limits
        for work in Work:
            yield _Question(
                of=work, bad_are="failed", more=limits.failed_more, count=_failed_of(work)
            )
        for measure in Measure:
            for quantile, more in ((0.95, limits.slowest_more), (0.5, limits.typical_more)):
                usual_s = _quantile_s(current, measure, quantile, limits.requests_min)
                if usual_s is None:
                    continue
                too_long_s = max(limits.slower * usual_s, usual_s + _FLOORS_S[measure])
                yield _Question(
                    of=measure,
                    bad_are=f"took more than {too_long_s * 1000:.0f} ms",
                    more=more,
                    count=_longer_than(measure, too_long_s),
                )


def _failed_of(work: Work) -> Callable[[Tally], tuple[int, int]]:
    return lambda tally: (tally.failed[work], tally.ended[work])


def _longer_than(measure: Measure, too_long_s: float) -> Callable[[Tally], tuple[int, int]]:
    limit = class_of(too_long_s)

    def count(tally: Tally) -> tuple[int, int]:
        times = [(c, n) for (m, c), n in tally.times.items() if m is measure]
        return sum(n for c, n in times if c > limit), sum(n for _, n in times)

    return count


def _quantile_s(tally: Tally, measure: Measure, quantile: float, least: int) -> float | None:
    """The time below which that share of the times lies; None for fewer than `least` times."""
    times = sorted((c, n) for (m, c), n in tally.times.items() if m is measure)
    left = quantile * sum(n for _, n in times)
    if left < quantile * least:
        return None
    for time_class, number in times:
        left -= number
        if left <= 0:
            return longest_s(time_class)
    return None
