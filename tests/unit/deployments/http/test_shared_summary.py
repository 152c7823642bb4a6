"""Health checks and scrapes ask the coordinator once at a time, however many there are."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from cluster.errors import DeadlineExceeded, Unavailable
from cluster.regions.status import RegionSummary
from deployments.http.shared_summary import FRESH_S, SharedSummary
from tests.support.fakes import SimClock
from tests.support.waiting import until
from tests.support.worlds.fake_service import SUMMARY, FakeService, in_process


class SlowCoordinator(FakeService):
    """Counts the calls that reach it; closed, its gate holds them up."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.under_way = 0
        self.under_way_max = 0

    async def status(self) -> RegionSummary:
        self.calls += 1
        self.under_way += 1
        self.under_way_max = max(self.under_way, self.under_way_max)
        try:
            await self.gate.wait()
            return await super().status()
        finally:
            self.under_way -= 1


async def test_a_flood_of_checks_is_one_call_each_half_second() -> None:
    service, clock = SlowCoordinator(), SimClock()
    async with in_process(service, clock, in_flight_max=1) as client:

        async def flood() -> set[int]:
            paths = ("/readyz", "/metrics", "/v1/models", "/v1/status")
            asked = (client.get(path) for path in paths[:2] * 100)
            replies = await asyncio.gather(*asked)
            # These take a place, so that they come one after the other.
            replies += [await client.get(path) for path in paths[2:]]
            return {reply.status_code for reply in replies}

        for second in range(5):
            for _ in range(2):
                assert await flood() == {200}
            assert service.calls == second + 1
            clock.sleep(FRESH_S)
    assert service.under_way_max == 1


@pytest.mark.parametrize("error", [Unavailable("away"), DeadlineExceeded("late")])
async def test_failures_are_shared_as_well(error: Exception) -> None:
    service, clock = SlowCoordinator(), SimClock()
    service.summary = error
    summary = SharedSummary(service, clock, timeout_s=5.0)
    for call in range(1, 4):
        for _ in range(100):
            with pytest.raises(type(error)):
                await summary.fresh()
        assert service.calls == call
        clock.sleep(FRESH_S)


async def test_a_coordinator_that_is_busy_is_not_asked_again_and_health_answers() -> None:
    service, clock = SlowCoordinator(), SimClock()
    async with in_process(service, clock, status_timeout_s=0.01) as client:
        assert (await client.get("/readyz")).status_code == 200
        service.gate.clear()
        for second in range(1, 4):
            clock.sleep(1.0)
            replies = await asyncio.gather(*(client.get("/readyz") for _ in range(50)))
            assert {reply.status_code for reply in replies} == {200}
            assert {reply.json()["age_s"] for reply in replies} == {float(second)}
            assert (await client.get("/v1/status")).status_code == 504
        assert service.calls == 2
        service.says(release=None)
        service.gate.set()
        await until(lambda: service.under_way == 0)
        assert (await client.get("/readyz")).status_code == 503


async def test_a_caller_that_leaves_takes_the_call_from_nobody() -> None:
    service = SlowCoordinator()
    service.gate.clear()
    summary = SharedSummary(service, SimClock(), timeout_s=5.0)
    one, other = (asyncio.create_task(summary.fresh()) for _ in range(2))
    await until(lambda: service.under_way == 1)
    one.cancel()
    await asyncio.gather(one, return_exceptions=True)
    service.gate.set()
    assert await other == SUMMARY
    assert service.calls == 1


async def test_a_call_that_is_lost_is_made_again() -> None:
    service, clock = SlowCoordinator(), SimClock()
    service.gate.clear()
    summary = SharedSummary(service, clock, timeout_s=5.0, call_timeout_s=0.01)
    with pytest.raises(DeadlineExceeded):
        await summary.fresh()
    service.gate.set()
    service.summary = replace(SUMMARY, release=9)
    clock.sleep(FRESH_S)
    assert (await summary.fresh()).release == 9
