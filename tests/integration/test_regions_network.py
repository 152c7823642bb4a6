"""A real network between each of three regions and the store, whose cables are pulled: what was
sent is never answered, as in a real outage.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.integration.regions_fixture import REGIONS, ThreeRegions
from tests.integration.regions_network import NoNamespaces, three_networked_regions
from tests.search_region import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

AWAY_S = 8.0
LEADER_LOST_S_MAX = 15.0


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreeRegions]:
    try:
        folder = tmp_path_factory.mktemp("regions")
        with three_networked_regions(folder, ("a-flat", "b-flat")) as regions:
            yield regions
    except NoNamespaces as error:
        pytest.skip(str(error))


@pytest.fixture
def regions(live: ThreeRegions) -> ThreeRegions:
    live.wait_until_whole()
    return live


@pytest.mark.parametrize("role", ["another region", "leader"])
def test_a_region_cut_off_from_the_store_answers_and_knows_how_old_its_answers_may_be(
    regions: ThreeRegions, role: str
) -> None:
    """The others go on, with another leader if need be; it catches up when the cable is back."""
    first = regions.log.switches[-1].release
    letter = regions.letters()[first]
    second = regions.commit("b-flat" if letter == "a" else "a-flat")
    leader = regions.log.leader
    away = leader if role == "leader" else next(r for r in REGIONS if r != leader)
    assert away is not None
    others = [region for region in REGIONS if region != away]
    before = regions.entries
    with regions.traffic() as (traffic, askers):
        regions.links[away].close()
        closed_s = time.monotonic()
        wait_until(lambda: regions.log.leader in others, "another leader")
        led_s = time.monotonic() - closed_s
        regions.at_leader("rollback", first)
        traffic.wait_for_release(first, *others)
        wait_until(lambda: time.monotonic() > closed_s + AWAY_S, "some staleness")
        stale = traffic.latest(away)
        assert (stale.release, stale.served_by) == (second, away)
        assert stale.staleness_ms >= (AWAY_S - 2.0) * 1000
        for asked in (
            {"consistency": "bounded", "max_staleness_ms": 1_500},
            {"consistency": "strong"},
        ):
            said = regions.ask(away, **asked)
            assert (said["release"], said["region"]) == (first, away), asked
            assert said["served_by"] in others, asked
        regions.links[away].open()
        opened_s = time.monotonic()
        traffic.wait_for_release(first, away)
        caught_up_s = time.monotonic() - opened_s
        traffic.wait_for_more()
    print(f"\n{role} cut off: led on after {led_s:.1f} s, caught up {caught_up_s:.1f} s after")
    assert led_s <= LEADER_LOST_S_MAX
    assert traffic.failed == []
    assert regions.wrong(askers) == []
    assert regions.dishonest(askers) == []
    assert regions.entries[: len(before)] == before
