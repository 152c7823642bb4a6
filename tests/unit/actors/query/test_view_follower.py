"""A gateway's follower: what it knows of its region and how current that is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from actors.query.release_uses import ReleaseUses
from actors.query.view_follower import ViewFollower
from cluster.clock import Deadline
from cluster.errors import Unavailable
from cluster.generation.prompt import PromptTemplate
from cluster.releases.entries import Switch
from cluster.releases.release_log import Freshness
from cluster.serving.view import Pulse, RegionView, ReleaseView
from tests.support.waiting import until


class FakeCoordinator:
    """Hands out views one by one."""

    def __init__(self, *views: RegionView) -> None:
        self.views: asyncio.Queue[RegionView] = asyncio.Queue()
        for view in views:
            self.views.put_nowait(view)
        self.away = False
        self.error: Exception = Unavailable("no coordinator")
        """While it is away."""
        self.read_ms = 0
        self.position = 0
        """Of the log, which every reading finds at its end."""
        self.pulses = 0
        self.told: object = None
        """The releases in use, as told with the last pulse."""
        self.readings = 0
        self.store_answers = asyncio.Event()
        self.store_answers.set()
        self.reading = asyncio.Event()

    def pulse(self) -> Pulse:
        return Pulse(
            freshness=Freshness(read_ms=self.read_ms, position=self.position),
            switches=tuple(
                Switch(release=1, at_ms=0, position=position)
                for position in range(1, self.position + 1)
            ),
            store_id="store",
        )

    async def call(self, method: str, *args: object) -> object:
        if method == "pulse":
            self.pulses += 1
            self.told = args[2]
            if self.away:
                raise self.error
            return self.pulse()
        if method == "refresh":
            self.readings += 1
            begun = self.position
            self.reading.set()
            await self.store_answers.wait()
            if self.away:
                raise Unavailable("the store does not answer")
            self.read_ms += 1
            return replace(self.pulse(), freshness=Freshness(read_ms=self.read_ms, position=begun))
        assert method == "view"
        if self.away:
            raise self.error
        return await self.views.get()


@asynccontextmanager
async def following(
    coordinator: FakeCoordinator,
    *,
    uses: ReleaseUses | None = None,
    on_view: Callable[[RegionView], None] = lambda _: None,
    pulse_s: float = 0.01,
) -> AsyncIterator[ViewFollower]:
    follower = ViewFollower(
        coordinator,
        random.Random(0),
        skew_max_ms=100,
        uses=uses or ReleaseUses(),
        on_view=on_view,
        pulse_s=pulse_s,
    )
    await follower.start(Deadline.after(10.0))
    try:
        yield follower
    finally:
        follower.stop()


async def test_pulses_tell_how_current_the_view_is() -> None:
    coordinator = FakeCoordinator(RegionView(region="a"))
    async with following(coordinator) as follower:
        coordinator.read_ms, coordinator.position = 500, 3
        await until(lambda: follower.knowledge.freshness.read_ms == 500)
        assert follower.view.switches[-1].position == 3
        # While nobody tells, what was told last stands still, and staleness grows.
        coordinator.away = True
        coordinator.read_ms = 900
        asked = coordinator.pulses
        await until(lambda: coordinator.pulses > asked)
        assert follower.knowledge.freshness.read_ms == 500


async def test_pulses_tell_which_releases_requests_may_begin_on_or_are_pinned_to() -> None:
    release = ReleaseView(
        number=2, corpora={}, embedders=(), generator=None, prompt=PromptTemplate()
    )
    coordinator = FakeCoordinator(RegionView(region="a", releases={2: release}))
    uses = ReleaseUses()
    async with following(coordinator, uses=uses):
        with uses.during(1):
            await until(lambda: coordinator.told == {1, 2})
        await until(lambda: coordinator.told == {2})


async def test_who_comes_while_the_log_is_read_waits_for_the_next_reading() -> None:
    coordinator = FakeCoordinator(RegionView(region="a"))
    coordinator.position = 1
    async with following(coordinator, pulse_s=60.0) as follower, asyncio.timeout(10.0):
        coordinator.store_answers.clear()
        first = asyncio.create_task(follower.refresh())
        await coordinator.reading.wait()
        # The reading that is under way began too early to find this.
        coordinator.position = 2
        later = [asyncio.create_task(follower.refresh()) for _ in range(50)]
        await asyncio.sleep(0)
        coordinator.store_answers.set()
        await asyncio.gather(first, *later)
        assert follower.knowledge.freshness.position == 2
        assert coordinator.readings == 2


async def test_a_store_that_is_away_is_told_to_all_who_wait() -> None:
    coordinator = FakeCoordinator(RegionView(region="a"))
    async with following(coordinator) as follower, asyncio.timeout(10.0):
        coordinator.away = True
        waiting = [asyncio.create_task(follower.refresh()) for _ in range(3)]
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in ended] == [Unavailable] * 3
        coordinator.away = False
        await follower.refresh()


async def test_a_caller_that_leaves_takes_no_reading_along() -> None:
    coordinator = FakeCoordinator(RegionView(region="a"))
    async with following(coordinator) as follower, asyncio.timeout(10.0):
        coordinator.store_answers.clear()
        leaving, staying = (asyncio.create_task(follower.refresh()) for _ in range(2))
        await coordinator.reading.wait()
        leaving.cancel()
        coordinator.store_answers.set()
        await staying
        assert coordinator.readings == 1


@pytest.mark.parametrize("error", [Unavailable("dead"), OSError("no route"), KeyError("a bug")])
async def test_it_goes_on_following_whatever_befell_it(error: Exception) -> None:
    coordinator = FakeCoordinator(RegionView(region="a", revision="1"))
    coordinator.error = error
    seen: list[RegionView] = []
    async with following(coordinator, on_view=seen.append) as follower:
        coordinator.away = True
        coordinator.views.put_nowait(RegionView(region="a", revision="2"))
        await until(lambda: follower.view.revision == "2")
        pulses = coordinator.pulses
        await until(lambda: coordinator.pulses > pulses + 2)
        coordinator.away = False
        coordinator.views.put_nowait(RegionView(region="a", revision="3"))
        await until(lambda: follower.view.revision == "3")
    assert [view.revision for view in seen] == ["1", "2", "3"]
