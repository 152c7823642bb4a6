"""A gateway's follower: it counts beside a canary, and reports what it counted once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from actors import view_follower
from actors.view_follower import ViewFollower
from cluster.clock import Deadline
from cluster.errors import Unavailable
from cluster.outcomes import OutcomeReport, Work
from cluster.region_view import RegionView
from cluster.releases import CanaryShare
from cluster.search import SearchRequest

ASKED = SearchRequest(queries=("tea",))
CANARY = CanaryShare(release=2, percent=5, at_ms=0)


class FakeCoordinator:
    """Hands out views one by one, and takes reports."""

    def __init__(self, *views: RegionView) -> None:
        self.views: asyncio.Queue[RegionView] = asyncio.Queue()
        for view in views:
            self.views.put_nowait(view)
        self.reports: asyncio.Queue[OutcomeReport] = asyncio.Queue()
        self.caught_up = asyncio.Event()
        """Set when the follower has taken all views in and asks for the next one."""
        self.away = False

    async def call(self, method: str, *args: object) -> object:
        if method == "view":
            if self.views.empty():
                self.caught_up.set()
            return await self.views.get()
        assert method == "report"
        (report,) = args
        assert isinstance(report, OutcomeReport)
        self.reports.put_nowait(report)
        if self.away:
            raise Unavailable("the reply was lost")
        return None


@asynccontextmanager
async def following(
    coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ViewFollower]:
    monkeypatch.setattr(view_follower, "_REPORT_S", 0.01)
    monkeypatch.setattr(view_follower, "NamedActor", lambda name: coordinator)
    follower = ViewFollower("coordinator", random.Random(0))
    await follower.start(Deadline.after(10.0))
    try:
        yield follower
    finally:
        follower.stop()


def search(follower: ViewFollower, release: int) -> None:
    with follower.outcomes.search(ASKED, release):
        pass


async def test_it_counts_as_long_as_there_is_a_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator = FakeCoordinator(RegionView(region="a"))
    async with following(coordinator, monkeypatch) as follower:
        assert not follower.outcomes.counting
        async with asyncio.timeout(10.0):
            await coordinator.caught_up.wait()
            coordinator.caught_up.clear()
            coordinator.views.put_nowait(RegionView(region="a", canary=CANARY, revision="2"))
            await coordinator.caught_up.wait()
            assert follower.outcomes.counting
            search(follower, 2)
            report = await coordinator.reports.get()
        assert (report.release, report.ended.canary.ended[Work.SEARCH]) == (2, 1)


async def test_what_may_have_arrived_is_not_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator = FakeCoordinator(RegionView(region="a", canary=CANARY))
    async with following(coordinator, monkeypatch) as follower, asyncio.timeout(10.0):
        coordinator.away = True
        search(follower, 2)
        await coordinator.reports.get()
        coordinator.away = False
        search(follower, 1)
        report = await coordinator.reports.get()
    assert (report.ended.canary.ended.total(), report.ended.current.ended.total()) == (0, 1)
