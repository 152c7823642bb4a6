"""The part of one process in the trial of a canary: it counts how requests end, and tells the
region's coordinator.
"""

from __future__ import annotations

import asyncio
import uuid

from actors.runtime.calls import Actor
from cluster.canary.counts import OutcomeCounts
from cluster.clock import SYSTEM_CLOCK
from cluster.logs.events import EventLog
from cluster.serving.view import RegionView

log = EventLog(__name__)
_REPORT_S = 2.0
_REPORT_TIMEOUT_S = 5.0


class CanaryTrial:
    """Reports what was counted, as long as the region's view has a canary."""

    def __init__(self, coordinator: Actor, *, report_s: float = _REPORT_S) -> None:
        """`report_s`: time between two reports."""
        self._coordinator = coordinator
        self._report_s = report_s
        self.outcomes = OutcomeCounts(uuid.uuid4().hex, SYSTEM_CLOCK)
        """Outcomes of the requests that this process serves while there is a canary."""
        self._reports: asyncio.Task[None] | None = None

    def follow(self, view: RegionView) -> None:
        """The view that is in force from now on."""
        self.outcomes.follow(None if view.canary is None else view.canary.release)

    def start(self) -> None:
        """Needs the running event loop. Does nothing when it has started."""
        if self._reports is None:
            self._reports = asyncio.create_task(self._report(), name="outcome-reports")

    def stop(self) -> None:
        if self._reports is not None:
            self._reports.cancel()

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(self._report_s)
            if (report := self.outcomes.take()) is None:
                continue
            try:
                async with asyncio.timeout(_REPORT_TIMEOUT_S):
                    await self._coordinator.call("report", report)
            except Exception as error:
                # It is not told again: it may have arrived, and nothing may count twice.
                log.warning(
                    "canary.report_lost", "a report of outcomes may be lost: {error}", error=error
                )
