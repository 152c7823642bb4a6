"""Searches and answers on which a majority of the regions agrees."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.errors import InvalidArgument, NotYet, Unavailable
from cluster.query.answers import AnswerRequest, AnswerResult, Retrieved, Token
from cluster.query.read_consistency import ConsistencyLevel, ReadConsistency, read_consistency_of
from cluster.query.search import SearchRequest
from cluster.query.session import SessionToken
from tests.support.worlds.regional_world import (
    ASK,
    FIRST,
    QUESTION,
    STORE,
    Region,
    World,
    quorum,
    told,
)


async def test_a_majority_is_the_answer_whoever_is_asked(world: World, a: Region) -> None:
    a.read(upto=1)
    found = await a.service.search(replace(ASK, consistency=quorum()))
    assert (found.release, found.region) == (2, "a")
    assert found.served_by in ("b", "c")


async def test_one_lost_region_of_three_is_no_matter_two_are(world: World, a: Region) -> None:
    world.regions["b"].gone = True
    assert (await a.service.search(replace(ASK, consistency=quorum()))).served_by == "a"
    world.regions["c"].gone = True
    with pytest.raises(Unavailable, match="1 of 3 regions answer"):
        await a.service.search(replace(ASK, consistency=quorum()))


async def test_regions_that_differ_are_asked_once_more_and_then_refused(
    world: World, a: Region, caplog: pytest.LogCaptureFixture
) -> None:
    for region in world.regions.values():
        region.text = f"of {region.name}"
    with pytest.raises(NotYet, match="no majority"):
        await a.service.search(replace(ASK, consistency=quorum()))
    assert len(a.served) == 2
    assert "answer release 2 differently" in caplog.text


async def test_bad_input_is_bad_by_quorum_too(world: World, a: Region) -> None:
    for region in world.regions.values():
        region.failures = [InvalidArgument("wrong", "top_k")] * 2
    with pytest.raises(InvalidArgument):
        await a.service.search(replace(ASK, consistency=quorum()))


async def test_bad_input_is_told_whatever_else_fails_first(world: World, a: Region) -> None:
    a.failures = [Unavailable("starting")] * 2
    world.regions["b"].gone = True
    world.regions["c"].failures = [InvalidArgument("wrong", "top_k")] * 2
    with pytest.raises(InvalidArgument):
        await a.service.search(replace(ASK, consistency=quorum()))


@pytest.mark.parametrize(("homes", "asked"), [(("b",), "a"), (("b", "c"), "a"), (("a", "c"), "b")])
async def test_only_regions_that_may_hold_the_corpus_vote(
    world: World, homes: tuple[str, ...], asked: str
) -> None:
    world.homes = homes
    region = world.regions[asked]
    region.failures = [InvalidArgument("is not kept in this region", "corpus")]
    found = await region.service.search(replace(ASK, consistency=quorum()))
    assert (found.region, found.served_by in homes) == (asked, True)
    events = await told(region, replace(QUESTION, consistency=quorum()))
    assert isinstance(events[-1], AnswerResult)
    assert events[-1].served_by in homes
    assert len(region.failures) == 1


async def test_a_lost_shard_is_no_difference_between_regions(
    world: World, a: Region, caplog: pytest.LogCaptureFixture
) -> None:
    b, c = world.regions["b"], world.regions["c"]
    a.text, a.coverage = "less", 0.5
    b.text, b.coverage = "even less", 0.25
    with pytest.raises(NotYet):
        await a.service.search(replace(ASK, consistency=quorum(), min_coverage=0.1))
    assert "differently" not in caplog.text
    b.coverage = 1.0
    with pytest.raises(NotYet):
        await a.service.search(replace(ASK, consistency=quorum(), min_coverage=0.1))
    (found, *_) = [line for line in caplog.text.splitlines() if "differently" in line]
    assert f"{b.name} (" in found
    assert f"{c.name} (" in found
    assert f"{a.name} (" not in found


async def test_a_single_region_is_its_own_majority() -> None:
    (alone,) = World().add("alone")
    assert (await alone.service.search(replace(ASK, consistency=quorum()))).release == 2


async def test_an_answer_by_quorum_is_written_where_the_majority_is(
    world: World, a: Region
) -> None:
    a.read(upto=1)
    (retrieved, *_) = await told(a, replace(QUESTION, consistency=quorum()))
    assert isinstance(retrieved, Retrieved)
    assert (retrieved.release, retrieved.region) == (2, "a")
    assert retrieved.served_by in ("b", "c")
    with pytest.raises(InvalidArgument, match="with retrieval"):
        await told(a, replace(QUESTION, retrieve=False, consistency=quorum()))


@pytest.mark.parametrize("holds_it", [True, False], ids=["here", "elsewhere"])
async def test_an_answer_by_quorum_takes_no_session_back(
    world: World, a: Region, holds_it: bool
) -> None:
    """The session has seen a switch whose moment has not come by the clocks of these regions."""
    world.log = [FIRST, (8, 2, world.clock.wall_ms() + 60)]
    for region in world.regions.values():
        region.read()
    if not holds_it:
        a.holds(1)
    by_quorum = ReadConsistency(level=ConsistencyLevel.QUORUM, session=SessionToken(STORE, 8))
    events = await told(a, replace(QUESTION, consistency=by_quorum))
    assert isinstance(events[-1], AnswerResult)
    assert holds_it or events[-1].served_by != "a"
    for event in (events[0], events[-1]):
        assert not isinstance(event, Token)
        assert (event.release, SessionToken.decode(event.session).position) == (2, 8)
    again = read_consistency_of(None, events[-1].session, None)
    assert (await a.service.search(replace(ASK, consistency=again))).release == 2


async def test_a_named_release_takes_no_session_back(world: World, a: Region) -> None:
    world.log = [FIRST, (8, 2, world.clock.wall_ms() + 60)]
    a.read()
    named = read_consistency_of(None, SessionToken(STORE, 8).encode(), None, release=1)
    found = await a.service.search(replace(ASK, release=1, consistency=named))
    assert (found.release, SessionToken.decode(found.session).position) == (1, 8)


async def test_a_text_is_embedded_once_for_all_regions(
    world: World, a: Region, caplog: pytest.LogCaptureFixture
) -> None:
    for number, region in enumerate(world.regions.values()):
        region.rounding = number * 1e-6
    found = await a.service.search(replace(ASK, consistency=quorum()))
    assert (found.region, found.release) == ("a", 2)
    events = await told(a, replace(QUESTION, consistency=quorum()))
    assert isinstance(events[-1], AnswerResult)
    assert "differently" not in caplog.text
    # By the release that all regions are asked for, and not by one that is only tried here.
    assert [(asked.release, asked.timeout_s) for asked in a.embeds] == [(2, 2.5), (2, 30.0)]
    sent = world.regions["b"].received
    assert all(asked.embedded for asked in sent)
    assert all(asked.queries for asked in sent if isinstance(asked, SearchRequest)), "texts, too"
    assert isinstance(a.served[-1], AnswerRequest)
    assert a.served[-1].embedded is not None, "the answer is made of what was agreed on"


async def test_a_release_with_another_embedder_embeds_the_text_itself(
    world: World, a: Region
) -> None:
    world.regions["b"].model = world.regions["c"].model = "another"
    world.regions["b"].rounding = world.regions["c"].rounding = 1.0
    found = await a.service.search(replace(ASK, consistency=quorum()))
    assert found.served_by in ("b", "c")
    assert found.hits[0].score == len("tea") + 1.0


async def test_where_the_text_cannot_be_embedded_here_each_region_does_it(
    world: World, a: Region
) -> None:
    a.cannot_embed = Unavailable("no embedder answers")
    assert (await a.service.search(replace(ASK, consistency=quorum()))).release == 2
    assert all(asked.embedded is None for asked in world.regions["b"].received)
