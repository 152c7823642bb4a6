"""A real network between each of three regions and the store, whose cables are pulled: what was
sent is never answered, as in a real outage.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.regions.regions_fixture import REGIONS, ThreeRegions
from tests.support.regions.regions_network import (
    NoNamespaces,
    RegionNetwork,
    Run,
    ip,
    networks,
    three_networked_regions,
)
from tests.support.regions.regions_outage import outlives_an_outage

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]


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
    leader = regions.log.leader
    away = leader if role == "leader" else next(r for r in REGIONS if r != leader)
    assert away is not None
    outlives_an_outage(regions, away)


def is_there(kind: str, name: str) -> bool:
    return name in ip(kind, "show").replace("@", " ").replace(":", " ").split()


def test_two_runs_have_networks_of_their_own_and_remove_no_others() -> None:
    # No process has these ids; the names are as long as they get.
    ours, theirs = Run(9_999_998), Run(9_999_999)
    try:
        with networks(ours) as known:
            with networks(theirs) as others:
                addresses = {n.address for n in known.values()} | {
                    n.store_host for n in known.values()
                }
                assert addresses.isdisjoint(n.address for n in others.values())
                assert addresses.isdisjoint(n.store_host for n in others.values())
            for network in others.values():
                assert not is_there("netns", network.name)
            assert not is_there("link", theirs.bridge)
            for network in known.values():
                assert is_there("netns", network.name)
                assert is_there("link", network.cable.device)
        ip("link", "add", theirs.bridge, "type", "bridge")
        try:
            # No reason to leave a test out: what is in the way is somebody's.
            with pytest.raises(OSError, match="link add"), networks(theirs):
                pass
            assert is_there("link", theirs.bridge)
            assert not is_there("netns", RegionNetwork(theirs, 1).name)
        finally:
            ip("link", "del", theirs.bridge)
    except NoNamespaces as error:
        pytest.skip(str(error))
