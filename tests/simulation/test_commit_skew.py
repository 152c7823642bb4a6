"""How far apart regions switch: five of them, each 150 ms from each other and from the store."""

from __future__ import annotations

from tests.simulation.harness import Scenario, World
from tests.simulation.world.people import propose_for_all
from tests.simulation.world.regions import SKEW_MAX_MS

COMMITS = 20
SKEW_MAX_S = 1.0
LOOKED_EVERY_S = 0.002


def test_regions_switch_within_a_second_of_each_other() -> None:
    skews_s = measured_skews_s(seed=1)
    worst = sorted(skews_s)[-1]
    print(f"\n{len(skews_s)} commits, 5 regions at 150 ms, clocks {SKEW_MAX_MS} ms apart at most:")
    print(f"from the first region's switch to the last one's: {worst * 1000:.0f} ms at most")
    assert len(skews_s) == COMMITS
    assert worst <= SKEW_MAX_S


def measured_skews_s(seed: int) -> list[float]:
    """Of each commit, on the true clock: between the first gateway and the last that serves it."""
    world = World(seed, Scenario(regions=5, roughness=0.0))
    world.network.same_rtt_ms = 150.0
    with world.playing():
        world.begin_in_calm()
        return [_skew_s(world, release) for release in range(2, COMMITS + 2)]


def _skew_s(world: World, release: int) -> float:
    propose_for_all(world)
    switched_s: dict[str, float] = {}
    while len(switched_s) < len(world.regions):
        world.scheduler.run(world.scheduler.now_s + LOOKED_EVERY_S)
        assert world.scheduler.now_s < 20.0 * release, "the release does not become current"
        for region in world.regions.values():
            if region.gateway is not None and region.gateway.current() == release:
                switched_s.setdefault(region.name, world.scheduler.now_s)
    return max(switched_s.values()) - min(switched_s.values())
