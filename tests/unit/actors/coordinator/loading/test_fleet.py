"""The fleet carries out what placement decides, and begins with what it finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from actors.coordinator.loading.fleet import Fleet, Kind, machines_of
from cluster.errors import Unavailable
from tests.support.fakes import SimClock

GROUP = "replica/words/0"


@dataclass
class Said:
    node: str


@dataclass
class Cluster:
    """Stands for Ray: nodes, and actors that run on them."""

    nodes: list[str] = field(default_factory=lambda: ["n1", "n2", "n3"])
    running: dict[str, str] = field(default_factory=dict)
    """The node of each actor, by its name."""
    mute: set[str] = field(default_factory=set)

    def live_nodes(self) -> dict[str, str]:
        return {node: f"10.0.0.{node[1:]}" for node in self.nodes}

    def existing_actors(self) -> list[str]:
        return sorted(self.running)

    def statuses(self, handles: Mapping[str, Any]) -> dict[str, Any]:
        asked = handles.keys() & self.running.keys() - self.mute
        return {name: Said(self.running[name]) for name in asked}

    def kill(self, name: str) -> None:
        self.running.pop(name, None)

    def make(self, name: str, node: str) -> str:
        self.running.setdefault(name, node)
        return f"handle of {name}"

    def lose(self, node: str, back_on: str) -> None:
        self.nodes.remove(node)
        self.running = {n: back_on if at == node else at for n, at in self.running.items()}

    @property
    def placements(self) -> list[str]:
        return sorted(self.running.values())


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def clock() -> SimClock:
    return SimClock()


@pytest.fixture
def fleet(cluster: Cluster, clock: SimClock) -> Fleet:
    return Fleet(cluster, clock)


def kind(cluster: Cluster, wanted: int = 2) -> Kind:
    return Kind(wanted, cluster.make)


def answers(fleet: Fleet) -> Callable[[str], bool]:
    return lambda name: fleet.status(name) is not None


def mend(fleet: Fleet, clock: SimClock, kinds: Mapping[str, Kind], rounds: int = 1) -> None:
    for _ in range(rounds):
        for group, one in kinds.items():
            fleet.fill(group, one)
        fleet.look()
        fleet.spread(kinds, answers(fleet))
        clock.sleep(2.0)


def test_what_is_missing_is_started_on_nodes_of_its_own(fleet: Fleet, cluster: Cluster) -> None:
    handles = fleet.fill(GROUP, kind(cluster))
    assert handles == {f"{GROUP}/{n}": f"handle of {GROUP}/{n}" for n in (0, 1)}
    assert len(set(cluster.placements)) == 2
    assert fleet.fill(GROUP, kind(cluster)) == handles
    assert fleet.members(GROUP) == (f"{GROUP}/0", f"{GROUP}/1")


def test_what_an_earlier_coordinator_has_started_is_found(fleet: Fleet, cluster: Cluster) -> None:
    cluster.running = {f"{GROUP}/3": "n1", f"{GROUP}/7": "n2", "replica/words/00/0": "n3"}
    assert set(fleet.fill(GROUP, kind(cluster))) == {f"{GROUP}/3", f"{GROUP}/7"}
    assert len(cluster.running) == 3


def test_a_member_that_is_gone_for_good_is_made_anew_in_its_place(
    fleet: Fleet, cluster: Cluster, clock: SimClock
) -> None:
    """Ray does not restart what has failed to start, as when the store was away."""
    mend(fleet, clock, {GROUP: kind(cluster)})
    before = dict(cluster.running)
    cluster.kill(f"{GROUP}/1")
    mend(fleet, clock, {GROUP: kind(cluster)}, rounds=2)
    assert cluster.running == before


def test_without_a_node_nothing_is_started_or_forgotten(
    fleet: Fleet, cluster: Cluster, clock: SimClock
) -> None:
    """As while Ray's control store starts anew."""
    mend(fleet, clock, {GROUP: kind(cluster)})
    before, nodes = dict(cluster.running), cluster.nodes
    cluster.nodes = []
    with pytest.raises(Unavailable):
        mend(fleet, clock, {GROUP: kind(cluster)})
    cluster.nodes = nodes
    mend(fleet, clock, {GROUP: kind(cluster)})
    assert cluster.running == before


def test_what_it_left_beyond_the_count_goes(
    fleet: Fleet, cluster: Cluster, clock: SimClock
) -> None:
    cluster.running = {f"{GROUP}/{n}": "n1" for n in range(3)} | {f"{GROUP}/3": "n2"}
    mend(fleet, clock, {GROUP: kind(cluster)}, rounds=20)
    assert cluster.placements == ["n1", "n2"]


def test_after_a_loss_and_a_return_all_are_apart_again(
    fleet: Fleet, cluster: Cluster, clock: SimClock
) -> None:
    kinds = {f"replica/words/{n}": kind(cluster) for n in range(3)}
    mend(fleet, clock, kinds, rounds=3)
    assert cluster.placements == ["n1", "n1", "n2", "n2", "n3", "n3"]
    cluster.lose("n2", back_on="n1")
    mend(fleet, clock, kinds, rounds=60)
    assert cluster.placements == ["n1", "n1", "n1", "n3", "n3", "n3"]
    cluster.nodes.append("n2")
    mend(fleet, clock, kinds, rounds=60)
    assert cluster.placements == ["n1", "n1", "n2", "n2", "n3", "n3"]
    for group in kinds:
        assert len({cluster.running[name] for name in fleet.members(group)}) == 2


def test_one_that_leaves_is_named_no_more_and_lives_on_for_a_while(
    fleet: Fleet, cluster: Cluster, clock: SimClock
) -> None:
    mend(fleet, clock, {GROUP: kind(cluster, 3)})
    mend(fleet, clock, {GROUP: kind(cluster, 2)})
    assert len(fleet.members(GROUP)) == 2
    assert len(cluster.running) == 3
    clock.sleep(10.0)
    mend(fleet, clock, {GROUP: kind(cluster, 2)})
    assert len(cluster.running) == 2


def test_nobody_moves_to_a_node_that_has_just_come(
    fleet: Fleet, cluster: Cluster, clock: SimClock
) -> None:
    cluster.nodes = ["n1"]
    kinds = {GROUP: kind(cluster)}
    mend(fleet, clock, kinds, rounds=20)
    cluster.nodes.append("n2")
    mend(fleet, clock, kinds)
    assert cluster.placements == ["n1", "n1"]
    clock.sleep(15.0)
    mend(fleet, clock, kinds)
    assert cluster.placements == ["n1", "n1", "n2"]


def test_a_node_on_which_one_got_stuck_is_avoided(
    fleet: Fleet, cluster: Cluster, clock: SimClock
) -> None:
    cluster.nodes = ["n1", "n2"]
    cluster.running = {f"{GROUP}/0": "n1", f"{GROUP}/1": "n1"}
    cluster.mute = {f"{GROUP}/2"}
    kinds = {GROUP: kind(cluster)}
    mend(fleet, clock, kinds, rounds=10)
    assert cluster.placements == ["n1", "n1", "n2"]
    clock.sleep(600.0)
    mend(fleet, clock, kinds, rounds=8)
    assert cluster.placements == ["n1", "n1"], "given up, and not tried again at once"
    clock.sleep(600.0)
    mend(fleet, clock, kinds)
    assert cluster.placements == ["n1", "n1", "n2"]


def test_what_is_dropped_ends_whoever_started_it(fleet: Fleet, cluster: Cluster) -> None:
    fleet.fill(GROUP, kind(cluster))
    cluster.running |= {f"{GROUP}/9": "n1", "replica/others/0/0": "n1"}
    fleet.drop([GROUP])
    assert list(cluster.running) == ["replica/others/0/0"]
    assert fleet.members(GROUP) == ()


def test_groups_of_no_kind_count_as_load_and_stay(
    fleet: Fleet, cluster: Cluster, clock: SimClock
) -> None:
    """As those of a release that is being loaded."""
    cluster.running = {f"replica/being/loaded/{n}": "n1" for n in range(3)}
    fleet.fill("replica/being/loaded", kind(cluster, 3))
    mend(fleet, clock, {GROUP: kind(cluster)}, rounds=20)
    assert Counter(cluster.placements) == {"n1": 3, "n2": 1, "n3": 1}


def test_machines_are_told_with_what_they_hold() -> None:
    nodes = {"b": "10.0.0.2", "a": "10.0.0.1"}
    actors = {"replica/words/0/0": "a", "replica/words/1/0": "a", "replica/x/0/4": "b"}
    first, second = machines_of(nodes, actors | {"embedder/v/0": "b"}, {"g": "b", "lost": "z"})
    assert (first.address, first.replicas, first.embedders) == ("10.0.0.1", {"words": 2}, 0)
    assert (second.replicas, second.embedders, second.gateways) == ({"x": 1}, 1, 1)
