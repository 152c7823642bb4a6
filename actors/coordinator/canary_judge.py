"""Collects the reports on a canary, and asks `cluster.canary.board` to judge the canary."""

from __future__ import annotations

import threading

from cluster.canary.board import CanaryBoard
from cluster.canary.counts import OutcomeReport
from cluster.clock import Clock
from cluster.logs.alerts import CANARY_AT_FAULT
from cluster.logs.events import EventLog

log = EventLog(__name__)


class CanaryJudge:
    """Keeps the board of the canary of the moment. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._board: CanaryBoard | None = None
        self._judging = threading.Lock()

    def take(self, report: OutcomeReport, canary: int | None) -> str | None:
        """Takes in what a gateway has counted; what the canary is at fault of, if that shows it."""
        with self._judging:
            if canary is None or report.release != canary:
                self._board = None
                return None
            if self._board is None or self._board.release != canary:
                self._board = CanaryBoard(canary)
            now_s = self._clock.monotonic_s()
            self._board.take(report, now_s)
            reason = self._board.fault(now_s)
        if reason is not None:
            log.alert(CANARY_AT_FAULT, release=report.release, reason=reason)
        return reason
