"""A write in one region is seen in another by whoever demands it: two documents actors over one
store, and what a gateway has of them.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from actors.mutations.documents import Documents
from actors.query.document_views import DocumentViews
from actors.regions.settling import NotHere, Settling
from cluster.clock import SYSTEM_CLOCK, Deadline
from cluster.errors import InvalidArgument, Unavailable
from cluster.mutations.watermark import Watermark
from cluster.query.read_consistency import ConsistencyLevel, ReadConsistency
from cluster.query.search import SearchRequest
from cluster.query.session import SessionToken
from cluster.releases.release_log import Freshness
from cluster.serving.consistency import RegionKnowledge
from cluster.serving.view import Pulse
from cluster.store.object_store import ObjectStore
from tests.support.waiting import until
from tests.support.worlds.documents_region import (
    CORPUS,
    TIMEOUT_S,
    documents_region,
    view_of,
    write_of,
    written,
)

REGIONS, STORE, SKEW_MS = ("a", "b"), "store", 100
ASK = SearchRequest(queries=("what?",), corpus=CORPUS, timeout_s=TIMEOUT_S)


class Local:
    """The actor, in this process."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self.is_away = False

    async def call(self, method: str, *args: object) -> object:
        if self.is_away:
            raise Unavailable("there is no actor documents at the moment")
        return await getattr(self._documents, method)(*args)


class Views:
    """One release, of which all there is to know is known."""

    @property
    def knowledge(self) -> RegionKnowledge:
        freshness = Freshness(read_ms=SYSTEM_CLOCK.wall_ms(), position=1)
        pulse = Pulse(freshness=freshness, store_id=STORE, last_release=1)
        return RegionKnowledge(view_of(CORPUS), pulse, skew_max_ms=SKEW_MS)

    async def refresh(self) -> None:
        """There is never more."""


@dataclass
class Gateway:
    """Of region `b`."""

    actor: Local
    live: DocumentViews
    settling: Settling

    async def seen_by(self, consistency: ReadConsistency) -> Watermark:
        """How far the documents have come once a search may see them."""
        request = replace(ASK, consistency=consistency)
        settled = await self.settling.settled(request, Deadline.after(TIMEOUT_S))
        known = self.live.known.get(CORPUS)
        reached = Watermark() if known is None else known.watermark
        assert settled.documents_floor.get(CORPUS, Watermark()) <= reached
        return reached


@asynccontextmanager
async def gateway(documents: Documents, *, is_away: bool = False) -> AsyncIterator[Gateway]:
    actor = Local(documents)
    actor.is_away = is_away
    live = DocumentViews(actor, random.Random(1), None)
    settling = Settling(views=Views(), documents=live, clock=SYSTEM_CLOCK, sleep=_no_wait)
    live.follow(view_of(CORPUS, region="b"))
    try:
        yield Gateway(actor, live, settling)
    finally:
        live.stop()


async def _no_wait(wait_s: float) -> None:
    raise AssertionError("no switch is to come")


@pytest.fixture
async def regions(store: ObjectStore, tmp_path: Path) -> AsyncIterator[tuple[Documents, Documents]]:
    async with (
        documents_region(store, tmp_path, "a", regions=REGIONS) as a,
        documents_region(store, tmp_path, "b", regions=REGIONS) as b,
    ):
        yield a, b


def of_session(watermark: Watermark) -> ReadConsistency:
    token = SessionToken(STORE, 1, {CORPUS: watermark})
    return ReadConsistency(level=ConsistencyLevel.SESSION, session=token)


STRONG = ReadConsistency(level=ConsistencyLevel.STRONG)


@pytest.mark.parametrize("level", ["session", "strong"])
async def test_a_write_elsewhere_is_seen_at_once(
    regions: tuple[Documents, Documents], level: str
) -> None:
    a, b = regions
    async with gateway(b) as here:
        for number in range(1, 4):
            (outcome,) = await written(a, write_of(f"x{number}"))
            watermark = Watermark.of({"a": outcome.position})
            asked = STRONG if level == "strong" else of_session(watermark)
            assert watermark <= await here.seen_by(asked)


async def test_a_position_that_no_log_has_is_refused_by_name(
    regions: tuple[Documents, Documents],
) -> None:
    a, b = regions
    await written(a, write_of("x"))
    async with gateway(b) as here:
        with pytest.raises(InvalidArgument, match="beyond the end of the log of 'tickets' in 'a'"):
            await here.seen_by(of_session(Watermark.of({"a": 2**40})))


async def test_a_process_that_has_heard_nothing_promises_nothing(
    regions: tuple[Documents, Documents],
) -> None:
    a, b = regions
    (outcome,) = await written(a, write_of("x"))
    bounded = ReadConsistency(level=ConsistencyLevel.BOUNDED, max_staleness_ms=60_000)
    async with gateway(b, is_away=True) as here:
        for asked in (bounded, STRONG, of_session(Watermark.of({"a": outcome.position}))):
            with pytest.raises(NotHere) as refused:
                await here.seen_by(asked)
            assert isinstance(refused.value.error, Unavailable)
        here.actor.is_away = False
        await until(lambda: here.live.known.get(CORPUS) is not None)
        assert (await here.seen_by(bounded))["a"] == outcome.position


async def test_without_any_log_nothing_is_asked_of_anybody(
    regions: tuple[Documents, Documents],
) -> None:
    async with gateway(regions[1]) as here:
        await until(lambda: here.live.known == {})
        here.actor.is_away = True
        bounded = ReadConsistency(level=ConsistencyLevel.BOUNDED, max_staleness_ms=1000)
        assert await here.seen_by(bounded) == Watermark()
        assert await here.seen_by(ReadConsistency()) == Watermark()
