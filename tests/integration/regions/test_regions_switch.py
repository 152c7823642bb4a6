"""Three Ray clusters, one store: a release is committed and rolled back in all of them while they
are asked.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.releases.requests import RollBackTo
from tests.support.regions.regions_fixture import REGIONS, ThreeRegions, three_regions

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreeRegions]:
    with three_regions(tmp_path_factory.mktemp("regions")) as regions:
        yield regions


def test_a_commit_and_the_way_back_reach_every_region_together(regions: ThreeRegions) -> None:
    first = regions.log.switches[-1].release
    with regions.traffic() as (traffic, askers):
        moments: list[tuple[int, list[float]]] = []
        for act in (lambda: regions.propose("b-flat"), lambda: regions.request(RollBackTo())):
            asked = {region: len(traffic.of(region)) for region in REGIONS}
            position = len(regions.log.switches)
            act()
            traffic.wait_for(lambda n=position: len(regions.log.switches) > n, "the switch")
            switch = regions.log.switches[position]
            traffic.wait_for_release(switch.release)
            came = [
                next(r.came_ms for r in traffic.of(n)[asked[n] :] if r.release == switch.release)
                for n in REGIONS
            ]
            moments.append((switch.at_ms, came))
    skews_ms = [max(came) - min(came) for _, came in moments]
    print(f"\n{len(traffic.replies)} queries, {len(traffic.failed)} failed; skews {skews_ms} ms")
    assert regions.log.switches[-1].release == first
    assert traffic.failed == []
    assert regions.wrong(askers) == []
    assert regions.dishonest(askers) == []
    # One machine, one clock, of whole milliseconds: no region was early.
    for at_ms, came in moments:
        assert min(came) > at_ms - 1
