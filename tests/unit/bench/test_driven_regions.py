from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from bench.regions import driven_regions
from bench.regions.driven_regions import DrivenRegions
from cluster.errors import Conflict, DeadlineExceeded, InvalidArgument
from cluster.releases.entries import LogState
from cluster.releases.requests import RollBackTo
from deployments.hosting.region_driver import RegionDriver


@dataclass
class Driver:
    """Of a region whose coordinator refuses as long as it is told to."""

    installation: str
    refusals: list[Exception] = field(default_factory=list)
    called: list[object] = field(default_factory=list)
    stops: int = 0

    def coordinator(self, method: str, *args: object) -> Any:
        self.called.append((method, args))
        if self.refusals:
            raise self.refusals.pop(0)
        return self.installation

    def run(self, function: object) -> None:
        self.called.append(function)

    def stop(self) -> None:
        self.stops += 1


@dataclass(kw_only=True)
class Regions(DrivenRegions):
    leaders: list[str | None]
    """One after another; the last one stays."""
    statuses: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def log(self) -> LogState:
        leader = self.leaders.pop(0) if len(self.leaders) > 1 else self.leaders[0]
        return LogState(leader=leader)

    def status(self, region: str) -> dict[str, Any]:
        told = self.statuses[region]
        return told.pop(0) if len(told) > 1 else told[0]


def regions_of(*drivers: Driver, **more: Any) -> Regions:
    named = {driver.installation: cast(RegionDriver, driver) for driver in drivers}
    return Regions(drivers=named, **more)


def test_who_leads_is_asked_until_somebody_does() -> None:
    first = Driver("a", [Conflict("another one leads")])
    second = Driver("b", [InvalidArgument("is wrong", "it")])
    regions = regions_of(first, second, leaders=[None, "b"])
    with pytest.raises(InvalidArgument):
        regions.request(RollBackTo(release=3))
    assert first.called == second.called == [("request", (RollBackTo(release=3),))]
    assert cast(str, regions.request(RollBackTo(release=3))) == "b"


SERVES = {"release": 2, "healthy": True}


def test_a_release_is_served_when_all_regions_have_it_and_are_whole() -> None:
    statuses = {
        "a": [SERVES],
        "b": [{}, {"release": 1, "healthy": True}, SERVES | {"healthy": False}, SERVES],
    }
    regions = regions_of(Driver("a"), Driver("b"), leaders=["a"], statuses=statuses)
    assert regions.wait_until_serving(2) > 0
    assert statuses["b"] == [SERVES]
    statuses["b"] = [{}]
    regions.wait_until_serving(2, "a")
    with pytest.raises(DeadlineExceeded, match="release 2 is not served in b"):
        regions.wait_until_serving(2, timeout_s=0.01)


def test_a_region_started_again_gets_another_driver_which_the_end_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driven_regions, "RegionDriver", Driver)
    prepared: list[object] = []
    lost = Driver("a")
    regions = regions_of(lost, leaders=["a"], before=prepared.append)
    regions.start_again("a")
    again = cast(Driver, regions.drivers["a"])
    assert again is not lost
    assert (lost.stops, again.stops, prepared) == (1, 0, [again])
    assert again.called == [driven_regions.join_new_cluster, driven_regions.start_services]
    regions.stop("a")
    assert (lost.stops, again.stops) == (1, 1)
