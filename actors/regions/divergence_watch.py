"""Asks all regions the same questions once in a while and compares their answers. Gateways do so by
turns, so that the answers of the processes that serve callers are compared.

The region's front actor keeps the differences: so all gateways report the same, however many there
are and however often they are started anew.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from cluster.clock import Clock, Deadline
from cluster.config import Settings
from cluster.errors import RaygionError, Unavailable
from cluster.logs.events import EventLog
from cluster.query.answers import EmbeddingService
from cluster.query.search import SearchResult
from cluster.regions.divergence import (
    FoundDifference,
    Inquiry,
    Probe,
    RegionComparison,
    Turn,
    compared,
    inquiries_of,
)
from cluster.regions.divergence_report import DivergenceReport
from cluster.regions.peers import Peers
from cluster.serving.consistency import RegionKnowledge
from cluster.serving.view import RegionView, ReleaseView

log = EventLog(__name__)

_ASK_S = 5.0
_ASK_JITTER = (0.5, 1.5)
_FRONT_TIMEOUT_S = 5.0
_PROBE_TIMEOUT_S = 10.0
_SEARCHES_AT_ONCE = 4


class ViewSource(Protocol):
    @property
    def view(self) -> RegionView: ...

    @property
    def knowledge(self) -> RegionKnowledge: ...


class Ledger(Protocol):
    """The front actor: `divergence_turn`, `divergence_probed`, `divergence_found`,
    `divergence_documents`.
    """

    async def call(self, method: str, *args: object) -> Any: ...


def watches(settings: Settings) -> bool:
    """True when there are several regions and the settings ask for comparisons."""
    return settings.divergence.every_s > 0 and len(settings.regions) > 1


class DivergenceWatch:
    """The watch of one gateway. A comparison that fails is tried again at the next turn."""

    def __init__(
        self,
        *,
        settings: Settings,
        region: str,
        service: EmbeddingService,
        peers: Peers,
        views: ViewSource,
        quorum_found: deque[FoundDifference],
        ledger: Ledger,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """`quorum_found`: the differences that searches by quorum find here; the watch empties
        it.
        """
        self._texts = settings.divergence.questions
        self._ask_s = min(_ASK_S, settings.divergence.every_s / 2)
        self._region = region
        self._service = service
        self._peers = peers
        self._views = views
        self._quorum_found = quorum_found
        self._ledger = ledger
        self._clock = clock
        self._rng = rng
        self._report = DivergenceReport()
        self._task: asyncio.Task[None] | None = None

    @property
    def report(self) -> DivergenceReport:
        """The region's report, at most a few seconds old."""
        return self._report

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="divergence-watch")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def step(self) -> None:
        """Reports what searches by quorum found and what regions say of their documents, and probes
        if it is this gateway's turn.

        Raises Unavailable when the front actor does not answer.
        """
        while self._quorum_found:
            await self._call("divergence_found", self._quorum_found[0])
            self._quorum_found.popleft()
        release = self._current()
        number = None if release is None else release.number
        if release is not None:
            await self._compare_documents(release.number)
        turn: Turn = await self._call("divergence_turn", number)
        self._report = turn.report
        if release is not None and turn.number is not None:
            probe = await self._probe(release, turn.number, turn.again)
            self._report = await self._call("divergence_probed", probe)

    async def _compare_documents(self, release: int) -> None:
        """By what the last heartbeats say of them: no region is asked."""
        heartbeats = self._views.knowledge.pulse.regions.items()
        said = {region: status.documents for region, status in heartbeats if status.documents}
        if len(said) > 1:
            await self._call("divergence_documents", said, release)

    async def _run(self) -> None:
        is_reported = False
        while True:
            try:
                await self.step()
            except RaygionError as error:
                if not is_reported:
                    log.warning(
                        "regions.not_compared",
                        "regions are not compared at the moment: {error}",
                        error=error,
                    )
                is_reported = True
            except Exception as error:
                # A bug in one probe must not end them all.
                log.error(
                    "regions.probe_failed",
                    "a probe for differences between regions failed",
                    traceback_of=error,
                )
            else:
                is_reported = False
            await asyncio.sleep(self._ask_s * self._rng.uniform(*_ASK_JITTER))

    async def _call(self, method: str, *args: object) -> Any:
        try:
            async with asyncio.timeout(_FRONT_TIMEOUT_S):
                return await self._ledger.call(method, *args)
        except TimeoutError as error:
            raise Unavailable("the region's front actor does not answer") from error

    def _current(self) -> ReleaseView | None:
        """The current release; None while there is nothing to serve."""
        try:
            view = self._views.view
        except Unavailable:
            return None
        switch = view.in_force(self._clock.wall_ms())
        return None if switch is None else view.releases[switch.release]

    async def _probe(self, release: ReleaseView, number: int, again: tuple[Inquiry, ...]) -> Probe:
        at_ms = self._clock.wall_ms()
        deadline = Deadline.after(_PROBE_TIMEOUT_S, self._clock)
        slots = asyncio.Semaphore(_SEARCHES_AT_ONCE)
        asked = [
            (inquiry, regions)
            for inquiry in inquiries_of(release, number, self._texts, again)
            if len(regions := self._peers.holders(inquiry.request)) > 1
        ]
        comparisons = await asyncio.gather(
            *(self._compare(inquiry, regions, deadline, slots) for inquiry, regions in asked)
        )
        return Probe(release=release.number, at_ms=at_ms, comparisons=tuple(comparisons))

    async def _compare(
        self,
        inquiry: Inquiry,
        regions: Sequence[str],
        deadline: Deadline,
        slots: asyncio.Semaphore,
    ) -> RegionComparison:
        if inquiry.request.queries is not None and inquiry.request.embedded is None:
            async with slots:
                asked = replace(inquiry.request, timeout_s=deadline.remaining_s())
                embedded = (await self._service.embedded(asked)).embedded
            inquiry = replace(inquiry, request=replace(inquiry.request, embedded=embedded))
        results = await asyncio.gather(
            *(self._ask(region, inquiry, deadline, slots) for region in regions)
        )
        answers = zip(regions, results, strict=True)
        return compared(inquiry, {name: result for name, result in answers if result is not None})

    async def _ask(
        self, region: str, inquiry: Inquiry, deadline: Deadline, slots: asyncio.Semaphore
    ) -> SearchResult | None:
        """None where the region does not answer or does not hold the release."""
        try:
            async with slots:
                if region != self._region:
                    return await self._peers.search(region, inquiry.request, deadline)
                deadline.check("regions were compared")
                # As if another region had sent it: whatever happens, it is not sent on.
                here = replace(
                    inquiry.request, forwarded_by=region, timeout_s=deadline.remaining_s()
                )
                return await self._service.search(here)
        except RaygionError as error:
            log.debug(
                "regions.left_out",
                "{other} is not compared in {inquiry}: {error}",
                other=region,
                inquiry=inquiry.name,
                error=error,
            )
            return None
