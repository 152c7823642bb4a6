"""Decides when a second replica is asked before the first has answered, and how often at most.

After Dean and Barroso, "The tail at scale" (2013): wait for the expected latency, and cap the extra
requests, since a tier that is slow because it is overloaded must not get more of them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeSettings:
    """The patience before a second replica is asked, and the budget for doing so."""

    quantile: float = 0.95
    """Quantile of the recent latencies that an answer is expected to take at most."""
    patience: float = 1.5
    """Multiple of that quantile for which a hedge waits, so that steady traffic spends no
    budget.
    """
    delay_s_min: float = 0.01
    """Shortest delay: less than this is the jitter of an event loop, not a slow replica."""
    samples_min: int = 20
    """Number of latencies below which nothing is expected yet and no request is hedged."""
    samples_max: int = 128
    """Number of the last latencies that are kept."""
    extra_max: float = 0.05
    """Hedges / requests, at most."""
    saved_max: float = 10.0
    """Unused hedges that are saved up for the moment when a replica hangs."""

    def __post_init__(self) -> None:
        assert 0.0 < self.quantile < 1.0
        assert self.patience >= 1.0
        assert self.delay_s_min >= 0.0
        assert 1 <= self.samples_min <= self.samples_max
        assert 0.0 <= self.extra_max <= 1.0
        assert self.saved_max >= 1.0


DEFAULT_HEDGING = HedgeSettings()


class ExpectedLatency:
    """The longest expected time of an answer, as a quantile of the last ones. Memory is bounded."""

    def __init__(self, settings: HedgeSettings = DEFAULT_HEDGING) -> None:
        self._settings = settings
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []

    def answered(self, latency_s: float) -> None:
        if len(self._recent) >= self._settings.samples_max:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]
        self._recent.append(latency_s)
        insort(self._sorted, latency_s)

    def at_most_s(self) -> float | None:
        """The longest expected time; None while too few latencies are known."""
        if len(self._sorted) < self._settings.samples_min:
            return None
        return self._sorted[int(self._settings.quantile * len(self._sorted))]

    def hedge_delay_s(self) -> float | None:
        """Time to wait for an answer before another replica is asked; None: no other is asked."""
        at_most_s = self.at_most_s()
        if at_most_s is None:
            return None
        return max(self._settings.delay_s_min, self._settings.patience * at_most_s)


class HedgeBudget:
    """A bucket of tokens: every request adds `extra_max` of a hedge, up to `saved_max` hedges.

    Guarantee: it starts empty, so that hedges / requests never exceed `extra_max` since the start,
    nor `saved_max` more than that in any stretch of requests.
    """

    def __init__(self, settings: HedgeSettings = DEFAULT_HEDGING) -> None:
        self._settings = settings
        self._saved = 0.0

    def asked(self) -> None:
        self._saved = min(self._settings.saved_max, self._saved + self._settings.extra_max)

    def take(self) -> bool:
        """True when one hedge may be sent now; its price is then taken from the budget."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True
