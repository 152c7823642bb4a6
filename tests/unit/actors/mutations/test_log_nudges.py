"""Other regions are told at once that a log has grown, however many appends there are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from actors.mutations.nudges import LogNudges
from cluster.clock import Deadline
from cluster.mutations.requests import DocumentsPosition
from cluster.mutations.watermark import Watermark
from cluster.store.object_store import ObjectStore
from tests.support.worlds.documents_region import documents_region, write_of, written
from tests.support.worlds.fake_service import FakeService
from tests.support.worlds.region_servers import FakePeerServices, nobody, serving, settings_of

WAIT_S = 30.0


class Listening(FakePeerServices):
    """Says when it is asked; while it is `held`, it gives no reply."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_for: asyncio.Queue[int] = asyncio.Queue()
        self.held = asyncio.Event()
        self.held.set()

    async def reached(
        self, corpus: str, watermark: Watermark, deadline: Deadline
    ) -> DocumentsPosition:
        self.asked_for.put_nowait(watermark["here"])
        await self.held.wait()
        return await super().reached(corpus, watermark, deadline)

    async def next_asked(self) -> int:
        async with asyncio.timeout(WAIT_S):
            return await self.asked_for.get()


@contextlib.asynccontextmanager
async def nudging(region: Listening, **others: object) -> AsyncIterator[LogNudges]:
    """Of `here`, beside which there are `there` and one that is dead."""
    async with serving(FakeService(), region, api_keys=("k",)) as url:
        with nobody() as dead:
            settings = settings_of({"there": url, "dead": dead}, region_keys=("k",), **others)
            nudges = LogNudges(settings, "here")
            try:
                yield nudges
            finally:
                await nudges.stop()


async def test_the_others_are_told_and_a_dead_one_holds_nobody_back() -> None:
    region = Listening()
    async with nudging(region) as nudges:
        for position in (1, 2, 3):
            nudges.tell("tea", position)
            assert await region.next_asked() == position


async def test_appends_during_a_nudge_are_told_by_one_more() -> None:
    region = Listening()
    region.held.clear()
    async with nudging(region) as nudges:
        nudges.tell("tea", 1)
        assert await region.next_asked() == 1
        for position in (2, 3, 4):
            nudges.tell("tea", position)
        nudges.tell("coffee", 9)
        assert await region.next_asked() == 9, "another corpus need not wait"
        region.held.set()
        assert await region.next_asked() == 4
        assert region.asked_for.empty()


async def test_who_may_not_hold_the_corpus_is_not_told() -> None:
    region = Listening()
    async with nudging(region, corpora={"tea": {"regions": ["here"]}}) as nudges:
        nudges.tell("tea", 1)
        nudges.tell("coffee", 2)
        assert await region.next_asked() == 2
        assert region.asked_for.empty()


async def test_a_write_is_told_to_the_others_at_once(store: ObjectStore, tmp_path: Path) -> None:
    region = Listening()
    async with serving(FakeService(), region) as url:
        urls, regions = {"b": url}, ("here", "b")
        async with documents_region(
            store, tmp_path, "here", regions=regions, urls=urls
        ) as documents:
            (first,) = await written(documents, write_of("x"))
            assert await region.next_asked() == first.position
            (second,) = await written(documents, write_of("y"))
            assert await region.next_asked() == second.position


async def test_a_region_alone_tells_nobody() -> None:
    nudges = LogNudges(settings_of({}), "here")
    nudges.tell("tea", 1)
    await nudges.stop()
