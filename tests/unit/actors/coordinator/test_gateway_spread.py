"""Gateways that stand together are told to move, one at a time and not for ever."""

from __future__ import annotations

import itertools

import pytest

from actors.coordinator.gateway_spread import GatewaySpread
from cluster.regions.settings import EndpointSettings
from tests.support.fakes import SimClock

NODES = ("n1", "n2")


@pytest.fixture
def clock() -> SimClock:
    return SimClock()


@pytest.fixture
def spread(clock: SimClock) -> GatewaySpread:
    return GatewaySpread(clock)


def moves(spread: GatewaySpread, placements: dict[str, str]) -> set[str]:
    for process, node in placements.items():
        spread.report(process, node)
    spread.look(NODES, NODES)
    return {process for process, node in placements.items() if spread.report(process, node).moves}


def test_one_of_two_on_a_machine_moves_when_there_is_another(spread: GatewaySpread) -> None:
    assert moves(spread, {"a": "n1", "b": "n1"}) == {"b"}
    assert moves(spread, {"a": "n1", "b": "n1"}) == {"b"}, "the same one, until it is gone"


@pytest.mark.parametrize("placements", [{"a": "n1"}, {"a": "n1", "b": "n2"}])
def test_what_is_spread_stays(spread: GatewaySpread, placements: dict[str, str]) -> None:
    assert moves(spread, placements) == set()


def test_the_next_one_moves_only_after_a_while_and_later_from_time_to_time(
    spread: GatewaySpread, clock: SimClock
) -> None:
    """Where moving does not help, as without Raygion's own placement in Serve."""
    waited = []
    for number in range(4):
        together = {"a": "n1", f"b{number}": "n1"}
        since_s = clock.now_s
        while not moves(spread, together):
            clock.sleep(5.0)
        waited.append(clock.now_s - since_s)
        clock.sleep(6.0)
        assert moves(spread, {"a": "n1"}) == set()
    assert waited[0] == 0.0
    assert all(60 <= earlier < later for earlier, later in itertools.pairwise(waited[1:]))


def test_a_gateway_is_told_how_many_machines_there_are(spread: GatewaySpread) -> None:
    assert spread.report("a", "n1").machines == 1
    spread.look(NODES, ())
    assert spread.report("a", "n1").machines == 2


def test_one_that_tells_nothing_is_gone(spread: GatewaySpread, clock: SimClock) -> None:
    spread.report("a", "n1")
    assert spread.placements() == {"a": "n1"}
    clock.sleep(5.1)
    assert spread.placements() == {}


@pytest.mark.parametrize(
    ("settings", "machines", "least"),
    [({}, 1, 1), ({}, 2, 2), ({}, 9, 2), ({"gateways": 4}, 1, 4), ({"gateways_max": 1}, 3, 1)],
)
def test_two_machines_have_two_gateways_unless_told_otherwise(
    settings: dict[str, int], machines: int, least: int
) -> None:
    endpoint = EndpointSettings.model_validate(settings)
    assert endpoint.gateways_least(machines) == least
    assert endpoint.gateways_most(cores=1) >= least
