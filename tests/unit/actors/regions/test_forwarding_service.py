"""Three regions that answer as requests demand, joined by calls in place of HTTP."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from actors.regions.forwarding_service import FORWARDS_MAX
from cluster.errors import (
    Corrupt,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    NotYet,
    Overloaded,
    RaygionError,
    Unavailable,
)
from cluster.query.answers import AnswerResult, Retrieved, Token, last_event
from cluster.query.read_consistency import ConsistencyLevel, ReadConsistency, read_consistency_of
from cluster.query.session import SessionToken
from tests.support.worlds.regional_world import (
    ASK,
    QUESTION,
    STORE,
    Region,
    World,
    quorum,
    seen,
    strong,
    told,
)


@pytest.fixture
def b(world: World) -> Region:
    return world.regions["b"]


async def test_what_demands_nothing_is_served_here_as_it_came(a: Region) -> None:
    found = await a.service.search(ASK)
    assert (found.release, found.region, found.served_by, found.staleness_ms) == (2, "a", "a", 100)
    assert SessionToken.decode(found.session) == SessionToken(STORE, 6)
    assert a.served == [ASK]
    assert (a.refreshes, a.sent_to) == (0, [])


@pytest.mark.parametrize(
    "demand",
    [seen(6), read_consistency_of(None, None, 500), strong(), quorum()],
    ids=lambda d: str(d.level),
)
async def test_each_level_is_met_here_when_it_can_be(a: Region, demand: ReadConsistency) -> None:
    found = await a.service.search(replace(ASK, consistency=demand))
    assert (found.release, found.region, found.served_by) == (2, "a", "a")
    assert a.refreshes == (demand.level is ConsistencyLevel.STRONG)
    assert a.sent_to == (["b", "c"] if demand.level is ConsistencyLevel.QUORUM else [])


@pytest.mark.parametrize(
    "demand", [seen(6), read_consistency_of(None, None, 500), strong()], ids=lambda d: str(d.level)
)
async def test_each_level_is_met_by_reading_the_log(
    a: Region, world: World, demand: ReadConsistency
) -> None:
    a.read(upto=1)
    world.clock.sleep(3.0)
    found = await a.service.search(replace(ASK, consistency=demand))
    assert (found.release, found.served_by, a.refreshes) == (2, "a", 1)
    assert found.staleness_ms <= 500


@pytest.mark.parametrize(
    "demand", [seen(6), read_consistency_of(None, None, 500), strong()], ids=lambda d: str(d.level)
)
async def test_what_this_region_does_not_hold_another_one_serves(
    a: Region, b: Region, demand: ReadConsistency
) -> None:
    a.holds(1)
    found = await a.service.search(replace(ASK, consistency=demand))
    assert (found.release, found.region, found.served_by) == (2, "a", "b")
    assert a.sent_to == ["b"]
    assert b.received[0].consistency == demand
    # With half of what is left of the time: another region follows.
    assert b.received[0].timeout_s == pytest.approx((ASK.timeout_s - a.read_takes_s) / 2)


async def test_a_named_release_that_is_not_here_is_served_elsewhere(a: Region) -> None:
    a.holds(2)
    found = await a.service.search(replace(ASK, release=1))
    assert (found.release, found.served_by) == (1, "b")
    with pytest.raises(InvalidArgument, match="no release 3"):
        await a.service.search(replace(ASK, release=3))
    assert a.sent_to == ["b"]


async def test_a_named_release_that_the_preferred_region_dropped_is_served_here(
    world: World, a: Region, b: Region
) -> None:
    world.log.append((9, 2, 600))
    for region in world.regions.values():
        region.read()
    a.prefers = "b"
    b.holds(2)
    assert (await a.service.search(replace(ASK, release=1))).served_by == "a"
    for region in (a, world.regions["c"]):
        region.holds(2)
    with pytest.raises(NotFound, match="release 1 is not served here"):
        await a.service.search(replace(ASK, release=1))


@pytest.mark.parametrize(
    ("demand", "error"), [(seen(6), NotYet), (read_consistency_of(None, None, 500), NotYet)]
)
async def test_what_no_region_meets_is_refused(
    world: World, a: Region, demand: ReadConsistency, error: type[RaygionError]
) -> None:
    for region in world.regions.values():
        region.holds(1)
    with pytest.raises(error, match=r"this region|asked for"):
        await a.service.search(replace(ASK, consistency=demand))
    assert a.sent_to == ["b", "c"]
    assert all(region.refreshes == 1 for region in world.regions.values())


async def test_without_the_store_nothing_is_promised(world: World, a: Region) -> None:
    world.store_away = True
    world.clock.sleep(30.0)
    assert (await a.service.search(ASK)).staleness_ms == 30_100
    for demand in (strong(), read_consistency_of(None, None, 500), seen(9)):
        with pytest.raises(Unavailable, match="store"):
            await a.service.search(replace(ASK, consistency=demand))


async def test_a_hanging_store_leaves_time_for_another_region(a: Region) -> None:
    a.hangs = True
    found = await a.service.search(replace(ASK, consistency=strong(), timeout_s=0.1))
    assert (found.release, found.served_by) == (2, "b")


@pytest.mark.parametrize(
    "error", [Unavailable("coverage"), Overloaded("full"), NotYet(""), Corrupt("a shard's file")]
)
async def test_a_region_that_fails_fails_no_query(
    a: Region, b: Region, error: RaygionError
) -> None:
    a.failures = [error]
    assert (await a.service.search(ASK)).served_by == "b"
    a.failures, b.gone = [error], True
    assert (await a.service.search(ASK)).served_by == "c"
    assert len(a.sent_to) == 1 + FORWARDS_MAX


async def test_what_came_from_another_process_demands_as_little(a: Region) -> None:
    await a.service.search(replace(ASK, consistency=pickle.loads(pickle.dumps(ASK.consistency))))
    # Served by whatever is current when it comes to it.
    assert a.served[0].not_before == 0


async def test_a_region_has_half_of_the_time_where_another_one_follows(
    world: World, a: Region, b: Region
) -> None:
    a.failures = [Unavailable("coverage")]
    b.gone = True
    await a.service.search(ASK)
    assert (a.sent_to, a.given_s) == (["b", "c"], [2.5, 5.0])
    a.prefers = "b"
    await a.service.search(ASK)
    assert a.given_s[2:] == [2.5]
    del world.regions["c"]
    a.failures, a.prefers = [Unavailable("coverage")], None
    with pytest.raises(Unavailable, match="coverage"):
        await a.service.search(ASK)
    assert a.given_s[3:] == [5.0]
    # The regions of a quorum are asked at once, in each of two rounds.
    b.gone = False
    await a.service.search(replace(ASK, consistency=quorum()))
    assert a.given_s[4:] == [2.5]


async def test_a_region_that_hangs_leaves_its_time_to_the_next(a: Region, b: Region) -> None:
    a.failures = [Unavailable("coverage")]
    b.failures = [DeadlineExceeded("late")]
    assert (await a.service.search(ASK)).served_by == "c"


async def test_what_other_regions_share_is_told_at_once(a: Region) -> None:
    for error in (InvalidArgument("wrong", "top_k"), DeadlineExceeded("late")):
        a.failures = [error]
        with pytest.raises(type(error)):
            await a.service.search(ASK)
    assert a.sent_to == []


async def test_when_all_fail_the_caller_hears_what_failed_first(world: World, a: Region) -> None:
    for region in world.regions.values():
        region.failures = [Unavailable(f"in {region.name}")]
    with pytest.raises(Unavailable, match="in a"):
        await a.service.search(ASK)


async def test_what_was_forwarded_stays_where_it_came(a: Region, b: Region) -> None:
    b.prefers = "c"
    b.failures = [Unavailable("coverage")]
    a.failures = [Unavailable("coverage")]
    assert (await a.service.search(ASK)).served_by == "c"
    assert b.sent_to == []
    b.holds(1)
    with pytest.raises(NotYet):
        await b.service.search(replace(ASK, consistency=seen(6), forwarded_by="a"))
    assert b.sent_to == []


async def test_a_preferred_region_comes_first_and_this_one_after_it(a: Region, b: Region) -> None:
    a.prefers = "b"
    found = await a.service.search(ASK)
    assert (found.region, found.served_by, a.served) == ("a", "b", [])
    b.gone = True
    assert (await a.service.search(ASK)).served_by == "a"


async def test_a_strong_answer_waits_for_a_moment_that_may_have_come(
    world: World, a: Region
) -> None:
    world.log.append((9, 1, 10_060))
    found = await a.service.search(replace(ASK, consistency=strong()))
    assert (found.release, world.clock.wall_ms()) == (1, 10_060)
    assert SessionToken.decode(found.session).position == 9
    world.log.append((12, 2, 20_000))
    assert (await a.service.search(replace(ASK, consistency=strong()))).release == 1
    world.log.append((15, 2, world.clock.wall_ms() + 90))
    with pytest.raises(DeadlineExceeded):
        await a.service.search(replace(ASK, consistency=strong(), timeout_s=0.05))


async def test_a_token_counts_everywhere_even_where_clocks_are_behind(
    world: World, a: Region, b: Region
) -> None:
    world.log.append((9, 1, 10_060))
    world.clock.now_s = 10.06
    a.read()
    ahead = await a.service.search(ASK)
    world.clock.now_s = 10.0
    found = await b.service.search(
        replace(ASK, consistency=read_consistency_of(None, ahead.session, None))
    )
    assert (found.release, found.served_by) == (1, "b")


async def test_tokens_of_other_stores_and_of_no_log(a: Region) -> None:
    for position, store in ((6, "other"), (7, STORE)):
        token = SessionToken(store, position).encode()
        with pytest.raises(InvalidArgument) as raised:
            await a.service.search(replace(ASK, consistency=read_consistency_of(None, token, None)))
        assert raised.value.field == "session"


# Answers.


async def test_an_answer_is_made_by_one_release_whatever_comes_meanwhile(
    world: World, a: Region
) -> None:
    events = a.service.answer_events(replace(QUESTION, consistency=strong()))
    first = await anext(events)
    world.log.append((9, 1, 0))
    a.read()
    rest = [event async for event in events]
    assert isinstance(first, Retrieved)
    assert isinstance(rest[-1], AnswerResult)
    assert first.release == rest[-1].release == 2
    assert a.served[0].release == 2


async def test_an_answer_goes_on_elsewhere_before_it_has_begun(a: Region) -> None:
    a.failures = [Unavailable("coverage")]
    events = await told(a, QUESTION)
    assert {(e.region, e.served_by) for e in events if not isinstance(e, Token)} == {("a", "b")}
    assert (await last_event(a.service.answer_events(QUESTION))).served_by == "a"


async def test_a_region_that_does_not_begin_to_answer_leaves_its_time_to_the_next(
    a: Region, b: Region
) -> None:
    a.prefers, b.hangs = "b", True
    answer = await last_event(a.service.answer_events(replace(QUESTION, timeout_s=0.1)))
    assert answer.served_by == "a"


async def test_an_answer_that_has_begun_is_not_begun_again(a: Region) -> None:
    a.error_in_stream = Unavailable("the model broke off")
    events = a.service.answer_events(QUESTION)
    assert [type(await anext(events)) for _ in range(2)] == [Retrieved, Token]
    with pytest.raises(Unavailable):
        await anext(events)
    assert a.sent_to == []


async def test_texts_are_embedded_here_whoever_else_could(world: World, a: Region) -> None:
    made = await a.service.embed(replace(ASK, queries=("tea",)))
    assert (made.region, made.served_by, made.release, made.num_tokens) == ("a", "a", 2, 1)
    a.holds(2)
    with pytest.raises(NotFound, match="release 1"):
        await a.service.embed(replace(ASK, queries=("tea",), release=1))
    assert a.sent_to == []
