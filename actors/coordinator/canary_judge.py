"""Collects the reports on a canary, and asks `cluster.canary.board` to judge the canary."""

from __future__ import annotations

import logging
import threading

from cluster.canary.board import CanaryBoard
from cluster.canary.outcomes import OutcomeReport
from cluster.clock import Clock

log = logging.getLogger(__name__)


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
            log.error("ALERT: canary release %d is at fault: %s", report.release, reason)
        return reason
