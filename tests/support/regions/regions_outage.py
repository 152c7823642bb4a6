"""What holds while one of three regions is cut off from the store, whatever cuts it off."""

from __future__ import annotations

import time

from cluster.releases.requests import RollBackTo
from tests.support.regions.regions_fixture import REGIONS, ThreeRegions
from tests.support.waiting import wait_until

STALE_MS, BOUND_MS, FRESH_MS = 5_000, 1_500, 3_000


def outlives_an_outage(regions: ThreeRegions, away: str) -> None:
    """The region answers all the time and knows how old its answers may be; what may not be so old
    it gets from the others, which go on, with another leader if need be; and it catches up when the
    way to the store is open again.
    """
    others = [region for region in REGIONS if region != away]
    first = regions.log.switches[-1].release
    second = regions.commit("b-flat" if regions.letters()[first] == "a" else "a-flat")
    before = regions.entries
    with regions.traffic() as (traffic, askers):
        regions.links[away].close()
        led_s = wait_until(lambda: regions.log.leader in others, "another leader")
        regions.request(RollBackTo(release=first))
        traffic.wait_for_release(first, *others)
        traffic.wait_for(lambda: traffic.latest(away).staleness_ms >= STALE_MS, "staleness")
        stale = traffic.latest(away)
        assert (stale.release, stale.served_by) == (second, away)
        for asked in (
            {"consistency": "bounded", "max_staleness_ms": BOUND_MS},
            {"consistency": "strong"},
            {"consistency": "session", "session": regions.ask(others[0])["session"]},
        ):
            said = regions.ask(away, **asked)
            assert (said["release"], said["region"]) == (first, away), asked
            assert said["served_by"] in others, asked
        pinned = regions.ask(away, release=second)
        assert (pinned["release"], pinned["served_by"]) == (second, away)
        regions.links[away].open()
        opened_s = time.monotonic()
        traffic.wait_for_release(first, away)
        caught_up_s = time.monotonic() - opened_s
        traffic.wait_for(lambda: traffic.latest(away).staleness_ms < FRESH_MS, "fresh answers")
        traffic.wait_for_more()
    print(f"\n{away} cut off: led on after {led_s:.1f} s, caught up {caught_up_s:.1f} s after it")
    assert traffic.failed == []
    assert regions.wrong(askers) == []
    assert regions.dishonest(askers) == []
    assert regions.entries[: len(before)] == before
