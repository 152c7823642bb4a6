"""Writes that wait for other regions, over real servers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from actors.regions.applied_round import AppliedRounds
from actors.regions.http_peers import RegionPeers
from cluster.clock import Deadline
from cluster.errors import NotYet, Unavailable
from cluster.mutations.watermark import Watermark
from cluster.regions.wire import parse_position
from tests.support.worlds.fake_service import FakeService
from tests.support.worlds.region_servers import FakePeerServices, peers_of, serving, settings_of

WRITTEN = Watermark.of({"here": 5})


@contextlib.asynccontextmanager
async def three_regions(
    **corpora: object,
) -> AsyncIterator[tuple[RegionPeers, dict[str, FakePeerServices]]]:
    """`here`, whose peers these are, and `near` and `far`."""
    there = {"here": FakePeerServices(), "near": FakePeerServices(), "far": FakePeerServices()}
    async with (
        serving(FakeService(), there["near"]) as near,
        serving(FakeService(), there["far"]) as far,
        peers_of(settings_of({"near": near, "far": far}, corpora=corpora)) as peers,
    ):
        yield peers, there


async def waited(
    peers: RegionPeers, there: dict[str, FakePeerServices], *, everywhere: bool
) -> None:
    rounds = AppliedRounds(region="here", here=there["here"], peers=peers)
    await rounds.await_applied("tea", WRITTEN, Deadline.after(20.0), everywhere=everywhere)


@pytest.mark.parametrize("everywhere", [False, True])
async def test_every_region_is_asked_at_once(everywhere: bool) -> None:
    async with three_regions() as (peers, there):
        await waited(peers, there, everywhere=True)
        for region in there.values():
            ((corpus, watermark, remaining_s),) = region.reached_asked
            assert (corpus, watermark) == ("tea", WRITTEN)
            assert 0.0 < remaining_s <= 20.0
        position = await peers.reached("near", "tea", Watermark(), Deadline.after(20.0))
        assert (position.watermark, position.read_ms) == (WRITTEN, 900)


async def test_one_that_is_behind_does_not_keep_a_majority_from_having_it() -> None:
    async with three_regions() as (peers, there):
        there["far"].error = NotYet("this region has not read yet what was written")
        await waited(peers, there, everywhere=False)
        with pytest.raises(NotYet, match="2 of 3 regions") as refused:
            await waited(peers, there, everywhere=True)
        assert "far: this region has not read yet what was written" in refused.value.message


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b'{"epoch":"e","version":1,"watermark":{"a":-1},"read_ms":1}'],
)
def test_what_is_no_position_is_not_taken_for_one(body: bytes) -> None:
    with pytest.raises(Unavailable):
        parse_position(body)


async def test_where_a_corpus_may_not_be_nobody_is_asked() -> None:
    async with three_regions(tea={"regions": ["here", "near"]}) as (peers, there):
        await waited(peers, there, everywhere=True)
        assert not there["far"].reached_asked
