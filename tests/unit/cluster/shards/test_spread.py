"""Members of a group keep apart, whatever comes and goes; moving ends, and takes nobody away too
early.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.shards.placement import (
    Dismiss,
    Group,
    Member,
    Start,
    Step,
    emptiest,
    one_to_move,
    plan,
)

NODES = ("n1", "n2", "n3")


def member(name: str, node: str | None, *, serving: bool = True, stuck: bool = False) -> Member:
    return Member(name=name, node=node, serving=serving, stuck=stuck)


def group(name: str, nodes: str, wanted: int | None = None) -> Group:
    """A group with members on these nodes: `"112"` has two on n1 and one on n2."""
    members = tuple(member(f"{name}/{i}", f"n{node}") for i, node in enumerate(nodes))
    return Group(name=name, wanted=len(members) if wanted is None else wanted, members=members)


def started_on(steps: list[Step], name: str) -> list[str]:
    return [step.node for step in steps if isinstance(step, Start) and step.group == name]


def dismissed(steps: list[Step]) -> list[str]:
    return [step.member.name for step in steps if isinstance(step, Dismiss)]


def test_members_start_on_nodes_of_their_own_and_all_nodes_get_their_share() -> None:
    groups = [group(f"g{n}", "", wanted=2) for n in range(6)]
    steps = plan(groups, NODES, NODES)
    for one in groups:
        assert len(set(started_on(steps, one.name))) == 2
    loads = Counter(step.node for step in steps if isinstance(step, Start))
    assert set(loads.values()) == {4}


def test_more_members_than_nodes_are_spread_evenly() -> None:
    steps = plan([group("g", "", wanted=7)], NODES, NODES)
    assert sorted(Counter(started_on(steps, "g")).values()) == [2, 2, 3]


def test_one_more_member_comes_where_the_group_has_none() -> None:
    assert started_on(plan([group("g", "12", wanted=3)], NODES, NODES), "g") == ["n3"]
    # Also where that node has most of everything else.
    groups = [group("g", "12", wanted=3), group("other", "333")]
    assert started_on(plan(groups, NODES, NODES), "g") == ["n3"]


@pytest.mark.parametrize(
    ("before", "leaves"),
    [("112", "g/1"), ("1123", "g/1"), ("1223", "g/2"), ("121", "g/2")],
)
def test_one_too_many_leaves_the_fullest_node(before: str, leaves: str) -> None:
    steps = plan([group("g", before, wanted=len(before) - 1)], NODES, NODES)
    assert dismissed(steps) == [leaves]


def test_nobody_leaves_before_enough_others_serve() -> None:
    still_loading = replace(
        group("g", "11", wanted=2),
        members=(member("g/0", "n1"), member("g/1", "n1"), member("g/2", "n2", serving=False)),
    )
    assert plan([still_loading], NODES, NODES) == []
    loaded = replace(still_loading, members=group("g", "112").members)
    assert dismissed(plan([loaded], NODES, NODES)) == ["g/1"]


def test_a_member_that_is_stuck_is_given_up() -> None:
    stuck = member("g/2", "n2", serving=False, stuck=True)
    full = Group(name="g", wanted=2, members=(*group("g", "11").members, stuck))
    assert dismissed(plan([full], NODES, NODES)) == ["g/2"]


def test_a_move_starts_the_new_one_first() -> None:
    """As after the return of a lost node, on which nothing is."""
    crowded = group("g", "11")
    (step,) = plan([crowded], NODES, NODES)
    assert isinstance(step, Start)
    assert step.node in {"n2", "n3"}
    assert plan([crowded], NODES, ["n1"]) == [], "a node that may soon be gone again"
    assert plan([crowded], NODES, []) == []


def test_an_empty_node_takes_its_share_of_groups_that_are_apart() -> None:
    apart = [group(f"g{n}", "12") for n in range(3)]
    (step,) = plan(apart, NODES, NODES)
    assert isinstance(step, Start)
    assert step.node == "n3"


@pytest.mark.parametrize("nodes", ["12", "123", "1123", "1"])
def test_what_is_spread_stays(nodes: str) -> None:
    assert plan([group("g", nodes)], NODES, NODES) == []


def test_one_member_moves_at_a_time() -> None:
    moving = Group(
        name="g",
        wanted=2,
        members=(*group("g", "11").members, member("g/2", "n2", serving=False)),
    )
    assert plan([moving, group("h", "11")], NODES, NODES) == []


def test_a_group_that_is_not_whole_moves_nobody() -> None:
    broken = Group(
        name="g", wanted=2, members=(member("g/0", "n1"), member("g/1", "n1", serving=False))
    )
    assert plan([broken], NODES, NODES) == []
    # The others do not wait for it.
    assert started_on(plan([broken, group("h", "11")], NODES, NODES), "h")


def test_what_others_start_moves_only_for_two() -> None:
    placements = {"a": "n1", "b": "n1"}
    assert one_to_move(placements, NODES) == "b"
    assert one_to_move(placements, ["n1"]) is None
    assert one_to_move({"a": "n1", "b": "n2"}, NODES) is None
    assert one_to_move({"a": "n1"}, NODES) is None
    assert one_to_move({}, NODES) is None


def test_the_emptiest_node_is_taken_and_the_preferred_one_among_equals() -> None:
    assert emptiest({}, NODES, "n2") == "n2"
    assert emptiest({"n2": 1}, NODES, "n2") == "n1"
    assert emptiest({"n1": 2, "n2": 1, "n3": 1}, NODES, None) == "n2"


@dataclass
class World:
    """Nodes that come and go, and groups whose steps are carried out, each in its own time."""

    rng: random.Random
    wanted: dict[str, int]
    nodes: set[str] = field(default_factory=lambda: set(NODES))
    members: dict[str, Member] = field(default_factory=dict)
    moves: int = 0

    def groups(self) -> list[Group]:
        return [
            Group(
                name=name,
                wanted=wanted,
                members=tuple(m for n, m in self.members.items() if n.startswith(f"{name}/")),
            )
            for name, wanted in self.wanted.items()
        ]

    def step(self) -> list[Step]:
        """One round of mending; whoever was started serves in the next one."""
        serving = {group.name: group.num_serving for group in self.groups()}
        steps = plan(self.groups(), sorted(self.nodes), sorted(self.nodes))
        for step in steps:
            match step:
                case Start(group=name, node=node):
                    self.moves += len(self.of(name)) >= self.wanted[name]
                    self.add(name, node)
                case Dismiss(member=gone):
                    del self.members[gone.name]
        for name, wanted in self.wanted.items():
            now = sum(m.serving for m in self.of(name))
            assert now >= min(wanted, serving[name]), "a step took one away that was needed"
        self.members = {n: replace(m, serving=True) for n, m in self.members.items()}
        return steps

    def of(self, name: str) -> list[Member]:
        return [m for n, m in self.members.items() if n.startswith(f"{name}/")]

    def add(self, name: str, node: str) -> None:
        number = next(i for i in itertools.count() if f"{name}/{i}" not in self.members)
        self.members[f"{name}/{number}"] = member(f"{name}/{number}", node, serving=False)

    def lose(self, node: str) -> None:
        """Ray starts what was there on any other node, and empty."""
        self.nodes.discard(node)
        for name, lost in self.members.items():
            if lost.node == node:
                other = self.rng.choice(sorted(self.nodes))
                self.members[name] = member(name, other, serving=False)

    def settle(self) -> None:
        rounds = 4 * (sum(self.wanted.values()) + len(self.members) + 1) ** 2
        for _ in range(rounds):
            at_rest = all(m.serving for m in self.members.values())
            if not self.step() and at_rest:
                return
        raise AssertionError(f"no rest after {rounds} rounds")


def check_spread(world: World) -> None:
    for name, wanted in world.wanted.items():
        counts = Counter(m.node for m in world.of(name))
        assert counts.total() == wanted
        shares = [counts[node] for node in world.nodes]
        assert max(shares) - min(shares) <= 1, f"{name} is not apart: {counts}"
    totals = Counter(m.node for m in world.members.values())
    shares = [totals[node] for node in world.nodes]
    # Groups that have as many members as there are nodes cannot even out more than that.
    assert max(shares) - min(shares) <= max(1, len(world.wanted))


@given(
    wanted=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    seed=st.integers(0, 2**32),
    num_events=st.integers(0, 8),
)
def test_whatever_comes_and_goes_the_groups_end_up_spread(
    wanted: list[int], seed: int, num_events: int
) -> None:
    rng = random.Random(seed)
    world = World(rng, {f"g{n}": count for n, count in enumerate(wanted)})
    world.settle()
    check_spread(world)
    for _ in range(num_events):
        match rng.choice(["lose", "return", "scale", "go on"]):
            case "lose" if len(world.nodes) > 1:
                world.lose(rng.choice(sorted(world.nodes)))
            case "return":
                world.nodes.add(rng.choice(NODES))
            case "scale":
                world.wanted[rng.choice(sorted(world.wanted))] = rng.randint(1, 6)
            case _:
                pass
        world.step()
    world.settle()
    check_spread(world)
    assert world.step() == [], "at rest, nothing moves"


@given(num_groups=st.integers(1, 12), wanted=st.integers(1, 3), seed=st.integers(0, 2**32))
def test_a_node_that_returns_costs_no_more_moves_than_what_it_takes(
    num_groups: int, wanted: int, seed: int
) -> None:
    world = World(random.Random(seed), {f"g{n}": wanted for n in range(num_groups)})
    world.settle()
    world.lose("n2")
    world.settle()
    world.nodes.add("n2")
    world.moves = 0
    world.settle()
    assert world.moves <= sum(m.node == "n2" for m in world.members.values())
