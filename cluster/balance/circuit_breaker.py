"""Decides by a replica's last outcomes whether the replica may be asked at all.

              failures in a row, or too many of the recent outcomes
      closed -------------------------------------------------------> open
         ^                                                            |  ^
         | enough probes went well             the backoff has passed |  | the probe failed:
         |                                                            v  | a longer backoff
         +-------------------------------------------------------- half-open
                                                          (one probe at a time)

closed: every request may pass. open: none should. half-open: one may pass, the probe; the next one
when it has ended.

A breaker advises and refuses nothing: a caller without another replica asks this one all the same.
Such a request is no probe, and outside `closed` only the outcomes of probes count. So what was sent
before the breaker opened neither closes nor opens it again when it ends late.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cluster.balance.verdicts import Verdict
from cluster.clock import Backoff

_BACKOFF = Backoff(initial_s=0.5, wait_max_s=8.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """The limits at which a circuit opens and closes, and the time for which it stays open."""

    failures_in_row_max: int = 5
    """Failures without a success between them that open the circuit."""
    failure_rate_max: float = 0.5
    """Share of failures among the recent outcomes above which the circuit opens."""
    failure_rate_gain: float = 0.1
    """Weight of the newest outcome in that share, which looks back at some 1 / gain outcomes."""
    good_probes: int = 2
    """Successful probes in a row that close the circuit."""
    backoff: Backoff = _BACKOFF
    """Time for which the circuit stays open, which grows with each probe that failed."""

    def __post_init__(self) -> None:
        assert self.failures_in_row_max >= 1
        assert 0.0 < self.failure_rate_max < 1.0
        assert 0.0 < self.failure_rate_gain <= 1.0
        assert self.good_probes >= 1


DEFAULT_BREAKER = BreakerSettings()


class CircuitBreaker:
    """The breaker of one replica.

    Guarantees: at most one probe at a time; open for at most `wait_max_s * (1 + jitter)` of the
    backoff at a stretch; the same calls with the same clock and random source give the same states.
    Each request that began ends exactly once: `watched` sees to it, or else the caller does.
    """

    _open_until_s: float | None
    """Time until which the circuit stays open; None while it is closed."""
    _openings: int
    """Times that the circuit has opened since it was last closed."""
    _failures_in_row: int
    _failure_rate: float
    _good_probes: int
    _probing: bool

    def __init__(
        self,
        *,
        now_s: Callable[[], float],
        rng: random.Random,
        settings: BreakerSettings = DEFAULT_BREAKER,
    ) -> None:
        self._now_s = now_s
        self._rng = rng
        self._settings = settings
        self._close()

    def passes(self) -> bool:
        """True when the state allows a request now."""
        if self._open_until_s is None:
            return True
        return not self._probing and self._now_s() >= self._open_until_s

    @contextmanager
    def watched(self, verdict_of: Callable[[BaseException, float], Verdict]) -> Iterator[None]:
        """The block makes one request. An error is judged by `verdict_of(error, took_s)`."""
        began_s, probe = self._now_s(), self.began()
        try:
            yield
        except BaseException as error:
            match verdict_of(error, self._now_s() - began_s):
                case Verdict.SUCCEEDED:
                    self.succeeded(probe=probe)
                case Verdict.FAILED:
                    self.failed(probe=probe)
                case Verdict.INCONCLUSIVE:
                    self.inconclusive(probe=probe)
            raise
        self.succeeded(probe=probe)

    def began(self) -> bool:
        """A request is sent. True when it is the probe, which the caller passes on when it ends."""
        if self._open_until_s is None or not self.passes():
            return False
        self._probing = True
        return True

    def succeeded(self, *, probe: bool) -> None:
        if self._open_until_s is None:
            self._failures_in_row = 0
            self._failure_rate *= 1.0 - self._settings.failure_rate_gain
        elif probe:
            self._probing = False
            self._good_probes += 1
            if self._good_probes >= self._settings.good_probes:
                self._close()

    def failed(self, *, probe: bool) -> None:
        if self._open_until_s is None:
            settings = self._settings
            self._failures_in_row += 1
            self._failure_rate += settings.failure_rate_gain * (1.0 - self._failure_rate)
            if (
                self._failures_in_row >= settings.failures_in_row_max
                or self._failure_rate > settings.failure_rate_max
            ):
                self._open()
        elif probe:
            self._open()

    def inconclusive(self, *, probe: bool) -> None:
        """The request ended in a way that tells nothing of the replica."""
        if probe:
            self._probing = False

    def _open(self) -> None:
        wait_s = self._settings.backoff.wait_s(self._openings, self._rng)
        self._open_until_s = self._now_s() + wait_s
        self._openings += 1
        self._good_probes = 0
        self._probing = False

    def _close(self) -> None:
        self._open_until_s = None
        self._openings = 0
        self._failures_in_row = 0
        self._failure_rate = 0.0
        self._good_probes = 0
        self._probing = False
