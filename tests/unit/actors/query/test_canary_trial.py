"""What a gateway counts beside a canary, and reports once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from actors.query.canary_trial import CanaryTrial
from cluster.canary.counts import OutcomeReport, Work
from cluster.errors import Unavailable
from cluster.query.search import SearchRequest
from cluster.releases.entries import CanaryShare
from cluster.serving.view import RegionView

ASKED = SearchRequest(queries=("tea",))
WITHOUT = RegionView(region="a")
WITH_CANARY = RegionView(region="a", canary=CanaryShare(release=2, percent=5, at_ms=0))


class FakeCoordinator:
    """Takes reports."""

    def __init__(self) -> None:
        self.reports: asyncio.Queue[OutcomeReport] = asyncio.Queue()
        self.away = False

    async def call(self, method: str, *args: object) -> None:
        assert method == "report"
        (report,) = args
        assert isinstance(report, OutcomeReport)
        self.reports.put_nowait(report)
        if self.away:
            raise Unavailable("the reply was lost")


@pytest.fixture
def coordinator() -> FakeCoordinator:
    return FakeCoordinator()


@pytest.fixture
async def trial(coordinator: FakeCoordinator) -> AsyncIterator[CanaryTrial]:
    trial = CanaryTrial(coordinator, report_s=0.01)
    trial.start()
    try:
        yield trial
    finally:
        trial.stop()


def search(trial: CanaryTrial, release: int) -> None:
    with trial.outcomes.search(ASKED, release):
        pass


async def test_it_counts_as_long_as_there_is_a_canary(
    trial: CanaryTrial, coordinator: FakeCoordinator
) -> None:
    trial.follow(WITHOUT)
    assert not trial.outcomes.counting
    trial.follow(WITH_CANARY)
    assert trial.outcomes.counting
    search(trial, 2)
    async with asyncio.timeout(10.0):
        report = await coordinator.reports.get()
    assert (report.release, report.ended.canary.ended[Work.SEARCH]) == (2, 1)
    trial.follow(WITHOUT)
    assert not trial.outcomes.counting


async def test_what_may_have_arrived_is_not_told_again(
    trial: CanaryTrial, coordinator: FakeCoordinator
) -> None:
    trial.follow(WITH_CANARY)
    async with asyncio.timeout(10.0):
        coordinator.away = True
        search(trial, 2)
        await coordinator.reports.get()
        coordinator.away = False
        search(trial, 1)
        report = await coordinator.reports.get()
    assert (report.ended.canary.ended.total(), report.ended.current.ended.total()) == (0, 1)
