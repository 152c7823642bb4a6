"""Searches by quorum while documents are written one by one, everywhere and all the time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.errors import NotYet
from cluster.mutations.watermark import Watermark
from cluster.query.answers import AnswerResult
from cluster.query.search import SearchResult
from cluster.query.session import SessionToken
from tests.support.worlds.regional_world import (
    ASK,
    CORPUS,
    QUESTION,
    World,
    quorum,
    told,
)

BY_QUORUM = replace(ASK, consistency=quorum())


def seen_by(result: SearchResult | AnswerResult) -> Watermark:
    return SessionToken.decode(result.session).documents[CORPUS]


@pytest.fixture
def busy() -> World:
    """No two regions are ever equally far."""
    world = World(is_busy=True)
    for region in world.add("a", "b", "c"):
        region.read_documents()
    return world


async def test_regions_that_are_equally_far_agree_at_once() -> None:
    world = World(written=Watermark.of({"a": 3}))
    for region in world.add("a", "b", "c"):
        region.read_documents()
    found = await world.regions["a"].service.search(BY_QUORUM)
    assert seen_by(found) == world.written
    assert len(world.regions["a"].served) == 1


async def test_one_that_is_behind_is_outvoted_or_reads_on() -> None:
    world = World(written=Watermark.of({"a": 3}))
    a, b, c = world.add("a", "b", "c")
    a.read_documents()
    world.written = Watermark.of({"a": 4})
    b.read_documents()
    c.read_documents()
    assert seen_by(await a.service.search(BY_QUORUM)) == world.written
    b.gone = True
    assert seen_by(await a.service.search(BY_QUORUM)) == world.written
    assert a.documents_read == 1


async def test_while_everybody_writes_an_answer_has_all_that_a_majority_had(busy: World) -> None:
    a = busy.regions["a"]
    had = [r.documents.watermark for r in busy.regions.values() if r.documents is not None]
    found = await a.service.search(BY_QUORUM)
    assert sum(watermark <= seen_by(found) for watermark in had) >= 2
    assert found.release == 2
    assert busy.clock.monotonic_s() < 10.5, "nobody waited for the regions to come to rest"


async def test_an_answer_never_comes_from_a_region_whose_index_differs(
    busy: World, caplog: pytest.LogCaptureFixture
) -> None:
    busy.regions["a"].text = "damaged text"
    found = await busy.regions["a"].service.search(BY_QUORUM)
    assert found.served_by in ("b", "c")
    # Only bases can be compared here, and they are.
    assert "answer release 2 differently" in caplog.text


async def test_documents_that_differ_are_no_difference_between_regions(
    busy: World, caplog: pytest.LogCaptureFixture
) -> None:
    await busy.regions["a"].service.search(BY_QUORUM)
    assert "differently" not in caplog.text


async def test_who_differs_from_the_same_documents_is_found_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(written=Watermark.of({"a": 3}))
    for region in world.add("a", "b"):
        region.read_documents()
        region.live_text = f"of {region.name}"
    with pytest.raises(NotYet, match="no majority"):
        await world.regions["a"].service.search(BY_QUORUM)
    assert "answer release 2 differently" in caplog.text


@pytest.mark.parametrize("damaged", [None, "a"])
async def test_an_answer_is_written_from_documents_that_are_no_older(
    busy: World, damaged: str | None
) -> None:
    a = busy.regions["a"]
    if damaged is not None:
        busy.regions[damaged].text = "damaged text"
    had = [r.documents.watermark for r in busy.regions.values() if r.documents is not None]
    events = await told(a, replace(QUESTION, consistency=quorum()))
    result = events[-1]
    assert isinstance(result, AnswerResult)
    assert sum(watermark <= seen_by(result) for watermark in had) >= 2
    assert result.served_by != damaged


async def test_a_lost_region_is_not_waited_for(busy: World) -> None:
    busy.regions["c"].gone = True
    found = await busy.regions["a"].service.search(BY_QUORUM)
    assert found.served_by == "a"
    busy.regions["b"].gone = True
    with pytest.raises(Exception, match="1 of 3 regions answer"):
        await busy.regions["a"].service.search(BY_QUORUM)
