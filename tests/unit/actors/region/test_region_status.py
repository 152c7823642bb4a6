"""The status of a region tells of its documents, and does without them while nobody knows."""

from __future__ import annotations

from pathlib import Path

from actors.region.region_status import RegionStatus
from cluster.errors import Unavailable
from cluster.regions.status import RegionSummary
from cluster.store.object_store import ObjectStore
from tests.support.worlds.documents_region import (
    CORPUS,
    FakeCoordinator,
    documents_region,
    view_of,
    write_of,
    written,
)

SUMMARY = RegionSummary(
    region="a", release=1, resident=(), leader="a", epoch=1, log_position=3, healthy=True
)


class Coordinator:
    async def status(self) -> RegionSummary:
        return SUMMARY


async def test_it_tells_how_far_the_documents_are(store: ObjectStore, tmp_path: Path) -> None:
    coordinator = FakeCoordinator(view_of(CORPUS, "more"))
    async with documents_region(store, tmp_path, coordinator=coordinator) as documents:

        class Actor:
            async def call(self, method: str, *args: object) -> object:
                return await getattr(documents, method)(*args)

        status = RegionStatus(Coordinator(), Actor())
        assert (await status.status()).documents == ()
        await written(documents, write_of("x"))
        await documents.refresh(CORPUS)
        (found,) = (await status.status()).documents or ()
        assert (found.corpus, found.watermark, found.rows) == (CORPUS, {"a": 1}, 1)
        assert found.read_ms > 0
        assert found.digest


async def test_a_region_has_a_status_while_its_documents_actor_is_away() -> None:
    class Away:
        async def call(self, method: str, *args: object) -> object:
            raise Unavailable("no actor")

    summary = await RegionStatus(Coordinator(), Away()).status()
    assert summary == SUMMARY
    assert summary.documents is None
