"""Requests that demand something of live documents: logs are read for them, or they are sent on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.errors import InvalidArgument, Unavailable
from cluster.mutations.watermark import Watermark
from cluster.query.read_consistency import ConsistencyLevel, ReadConsistency
from cluster.query.search import SearchResult
from cluster.query.session import SessionToken
from tests.support.worlds.regional_world import (
    ASK,
    CORPUS,
    QUESTION,
    SECOND,
    STORE,
    World,
    strong,
    told,
)

WRITTEN = Watermark.of({"a": 3, "b": 1})


def of_session(seen: Watermark) -> ReadConsistency:
    token = SessionToken(STORE, SECOND[0], {CORPUS: seen})
    return ReadConsistency(level=ConsistencyLevel.SESSION, session=token)


def seen_by(result: SearchResult) -> Watermark:
    return SessionToken.decode(result.session).documents.get(CORPUS, Watermark())


async def test_a_write_is_seen_by_whoever_has_its_token() -> None:
    world = World(written=WRITTEN)
    (region,) = world.add("a")
    found = await region.service.search(replace(ASK, consistency=of_session(WRITTEN)))
    assert seen_by(found) == WRITTEN
    assert region.documents_read == 1
    again = await region.service.search(replace(ASK, consistency=of_session(WRITTEN)))
    assert seen_by(again) == WRITTEN
    assert region.documents_read == 1, "what is known needs no reading"


async def test_a_strong_answer_reads_the_logs_and_eventual_ones_do_not() -> None:
    world = World(written=WRITTEN)
    (region,) = world.add("a")
    assert seen_by(await region.service.search(ASK)) == Watermark()
    assert region.documents_read == 0
    found = await region.service.search(replace(ASK, consistency=strong()))
    assert seen_by(found) == WRITTEN
    assert (region.documents_read, region.refreshes) == (1, 1)


async def test_the_plain_model_and_embeddings_need_no_documents() -> None:
    world = World(written=WRITTEN)
    (region,) = world.add("a")
    await told(region, replace(QUESTION, retrieve=False, consistency=strong()))
    await region.service.embed(replace(ASK, consistency=strong()))
    assert region.documents_read == 0
    assert region.refreshes == 2


async def test_another_region_that_has_the_documents_serves() -> None:
    world = World(written=WRITTEN)
    here, there = world.add("a", "b")
    here.documents_away = True
    there.read_documents()
    found = await here.service.search(replace(ASK, consistency=of_session(WRITTEN)))
    assert (found.region, found.served_by) == ("a", "b")
    assert seen_by(found) == WRITTEN
    there.documents_away = True
    with pytest.raises(Unavailable, match="logs cannot be read"):
        await here.service.search(replace(ASK, consistency=strong()))


async def test_a_bound_counts_for_documents_too() -> None:
    world = World(written=WRITTEN)
    (region,) = world.add("a")
    region.read_documents()
    world.clock.sleep(2.0)
    region.read()
    bounded = ReadConsistency(level=ConsistencyLevel.BOUNDED, max_staleness_ms=1000)
    stale = await region.service.search(ASK)
    assert stale.staleness_ms >= 2000
    fresh = await region.service.search(replace(ASK, consistency=bounded))
    assert fresh.staleness_ms <= 1000
    assert (region.documents_read, region.refreshes) == (1, 0)


async def test_answers_never_go_back_whatever_is_asked_in_between() -> None:
    world = World(written=WRITTEN)
    (region,) = world.add("a")
    other = {"coffee": Watermark.of({"b": 7})}
    token = SessionToken(STORE, SECOND[0], {CORPUS: WRITTEN, **other})
    named = replace(ASK, release=1, consistency=ReadConsistency(session=token))
    found = await region.service.search(named)
    assert SessionToken.decode(found.session).documents == {CORPUS: WRITTEN, **other}


async def test_a_token_of_documents_that_were_never_written_is_refused() -> None:
    world = World(written=WRITTEN)
    here, _ = world.add("a", "b")
    made_up = of_session(Watermark.of({"b": 2**40}))
    with pytest.raises(InvalidArgument, match="beyond the end of the log of 'tea' in 'b'"):
        await here.service.search(replace(ASK, consistency=made_up))
    assert here.documents_read == 1
    assert not here.sent_to
