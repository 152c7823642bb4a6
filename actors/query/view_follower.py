"""Keeps what a gateway knows of its region fresh: a long poll on the coordinator for the view, by
content, not by message, and a short one for how current that is, which tells how busy this process
was.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable
from typing import cast

from actors.query.release_uses import ReleaseUses
from actors.query.shared_readings import SharedReadings
from actors.runtime.busy_share import BusyShare
from actors.runtime.calls import Actor
from cluster.clock import Backoff, Deadline
from cluster.errors import Unavailable
from cluster.logs.events import EventLog
from cluster.regions.status import RegionSummary
from cluster.serving.consistency import RegionKnowledge
from cluster.serving.view import Pulse, RegionView

log = EventLog(__name__)
_BACKOFF = Backoff(initial_s=0.1, wait_max_s=2.0)
_POLL_S = (20.0, 30.0)
"""A poll without news ends after a random time in this range, so that gateways do not march in
step.
"""
_PULSE_S = 0.5
_PULSE_TIMEOUT_S = 5.0
_REFRESH_TIMEOUT_S = 3.0
"""A little longer than the coordinator itself waits for the store."""


class ViewFollower:
    """Follows the region's coordinator. While it is away, the last view stays in force. Also a
    `cluster.regions.status.StatusSource`.
    """

    def __init__(
        self,
        coordinator: Actor,
        rng: random.Random,
        *,
        skew_max_ms: int,
        uses: ReleaseUses,
        on_view: Callable[[RegionView], None],
        pulse_s: float = _PULSE_S,
    ) -> None:
        """`uses`: of the releases by this process. `on_view` gets each view that comes.
        `pulse_s`: time between two pulses.
        """
        self._coordinator = coordinator
        self._rng = rng
        self._knowledge: RegionKnowledge | None = None
        self._pulse = Pulse()
        """The last one, as long as there is no view yet."""
        self._arrived = asyncio.Event()
        self._felt = asyncio.Event()
        self._readings = SharedReadings(self._read_log, timeout_s=_REFRESH_TIMEOUT_S)
        self._tasks: list[asyncio.Task[None]] = []
        self._process = uuid.uuid4().hex
        self._skew_max_ms = skew_max_ms
        self._pulse_s = pulse_s
        self._uses = uses
        self._on_view = on_view

    @property
    def knowledge(self) -> RegionKnowledge:
        """The present knowledge of the region. Raises Unavailable before the first view."""
        if self._knowledge is None:
            raise Unavailable("this region is still starting; try again shortly")
        return self._knowledge

    @property
    def view(self) -> RegionView:
        """The last view seen. Raises Unavailable before the first one."""
        return self.knowledge.view

    async def start(self, deadline: Deadline) -> None:
        """Starts to follow, and waits for the first view and the first pulse. Raises Unavailable
        when they do not come.
        """
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._follow(), name="view-follower"),
                asyncio.create_task(self._feel(), name="pulse"),
            ]
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                await self._arrived.wait()
                await self._felt.wait()
        except TimeoutError as error:
            raise Unavailable("the region's coordinator does not answer") from error

    async def status(self) -> RegionSummary:
        """Raises Unavailable while the coordinator is away; serving goes on without it."""
        return cast(RegionSummary, await self._coordinator.call("status"))

    async def refresh(self) -> None:
        """Returns when the release log has been read to its end, by a reading that began after this
        call, and `knowledge` holds what came of it. Callers share readings.

        Raises Unavailable when the coordinator or the store does not answer within seconds.
        """
        await self._readings.fresh()

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _follow(self) -> None:
        attempt = 0
        while True:
            known = None if self._knowledge is None else self._knowledge.view.revision
            try:
                poll_s = self._rng.uniform(*_POLL_S)
                async with asyncio.timeout(poll_s + 10.0):
                    self._see(await self._coordinator.call("view", known, poll_s))
            except Exception as error:
                # Whatever it is: who stops following serves the old view for ever.
                wait_s = _BACKOFF.wait_s(attempt, self._rng)
                log.warning(
                    "coordinator.no_view",
                    "no view from the coordinator ({error}); again in {wait_s:.1f} s",
                    error=error,
                    wait_s=wait_s,
                )
                attempt += 1
                await asyncio.sleep(wait_s)
            else:
                attempt = 0

    def _see(self, view: RegionView) -> None:
        if self._knowledge is None:
            self._knowledge = RegionKnowledge(view, skew_max_ms=self._skew_max_ms).with_pulse(
                self._pulse
            )
        else:
            self._knowledge = self._knowledge.with_view(view)
        self._on_view(view)
        self._arrived.set()

    async def _feel(self) -> None:
        is_reported, busy = False, BusyShare()
        while True:
            try:
                async with asyncio.timeout(_PULSE_TIMEOUT_S):
                    pulse = await self._coordinator.call(
                        "pulse", self._process, busy.look(), self._releases()
                    )
                    self._take(cast(Pulse, pulse))
            except Exception as error:
                # Once: the staleness of what is served grows from here on.
                if not is_reported:
                    log.warning(
                        "coordinator.no_pulse",
                        "no pulse from the coordinator ({error})",
                        error=error,
                    )
                is_reported = True
            else:
                is_reported = False
            await asyncio.sleep(self._pulse_s)

    def _releases(self) -> frozenset[int]:
        """The releases on which requests may begin here, or are under way."""
        view = frozenset() if self._knowledge is None else self._knowledge.view.releases.keys()
        return self._uses.releases() | view

    def _take(self, pulse: Pulse) -> None:
        self._felt.set()
        if self._knowledge is None:
            self._pulse = pulse
        else:
            self._knowledge = self._knowledge.with_pulse(pulse)

    async def _read_log(self) -> None:
        self._take(cast(Pulse, await self._coordinator.call("refresh")))
