"""The placing of documents in shards and of actors on nodes. Pure and stable.

Actors that do the same work form a group: the replicas of a shard, the embedders of a model, the
gateways. The members of a group keep apart, so that a lost node takes as few of them as possible,
and every node gets its even share of all members.

    plan     what to do next, one step closer to that
      Start      a group lacks a member, or one is to move: the new one first
      Dismiss    a group has one too many, such as the one that has moved

A move is a `Start` beside the one that is to go, and its `Dismiss` once the new one serves; so a
group never has fewer serving members for it. One member moves at a time, and only if that makes the
spread better, so that moves come to an end.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass


def shard_of(document_id: str, num_shards: int) -> int:
    """The shard of a document: consistent hashing, so that few documents move when shards are
    added.

    Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm" (2014).
    """
    assert num_shards >= 1
    key = int.from_bytes(hashlib.blake2b(document_id.encode(), digest_size=8).digest())
    bucket, candidate = -1, 0
    while candidate < num_shards:
        bucket = candidate
        key = (key * 2862933555777941757 + 1) & 0xFFFF_FFFF_FFFF_FFFF
        candidate = int((bucket + 1) * (1 << 31) / ((key >> 33) + 1))
    return bucket


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One actor of a group, as it was seen last."""

    name: str
    node: str | None
    """Node on which the member runs or is about to run; None when that is not known."""
    serving: bool
    """True when the member does all of the group's work."""
    stuck: bool = False
    """True when the member has not served for so long that it is no longer waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Actors that do the same work."""

    name: str
    wanted: int
    members: tuple[Member, ...]

    @property
    def num_serving(self) -> int:
        return sum(member.serving for member in self.members)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Start one more member of the group on this node."""

    group: str
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dismiss:
    """Let this member go."""

    member: Member


Step = Start | Dismiss


def plan(
    groups: Sequence[Group], nodes: Collection[str], movable_to: Collection[str]
) -> list[Step]:
    """The next steps for all groups; none when everything is as it should be.

    `nodes`: those that are alive, at least one. `movable_to`: those of them that members may move
    to, which leaves out nodes that may soon be gone again.
    """
    assert nodes
    steps: list[Step] = []
    spread = _Spread(groups)
    for group in groups:
        for _ in range(group.wanted - len(group.members)):
            node = spread.best_node(group.name, nodes)
            spread.add(group.name, node)
            steps.append(Start(group=group.name, node=node))
    for group in groups:
        if (surplus := spread.surplus_of(group)) is not None:
            steps.append(Dismiss(member=surplus))
    if steps or any(len(group.members) > group.wanted for group in groups):
        return steps
    move = spread.best_move(groups, nodes, movable_to)
    return [] if move is None else [move]


def one_to_move(placements: Mapping[str, str], movable_to: Collection[str]) -> str | None:
    """The actor, among actors that others start, that should end, so that it comes back on a node
    with at least two fewer of them; None when they are spread as well as they can be.

    `placements`: the node of each actor, by name.
    """
    counts = Counter(placements.values())
    fullest = max(sorted(counts), key=lambda node: counts[node], default=None)
    if fullest is None or all(counts[fullest] - counts[node] < 2 for node in movable_to):
        return None
    return max(name for name, node in placements.items() if node == fullest)


def emptiest(counts: Mapping[str, int], nodes: Collection[str], preferred: str | None) -> str:
    """The node for one more of some actors: one with the fewest; among equals the preferred one.

    `counts`: how many there are on a node. `nodes`: where one may start, at least one.
    """
    return min(sorted(nodes), key=lambda node: (counts.get(node, 0), node != preferred))


class _Spread:
    """The numbers of members on each node: of each group, and of all groups."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._of_group: Counter[tuple[str, str]] = Counter()
        self._of_all: Counter[str] = Counter()
        for group in groups:
            for member in group.members:
                if member.node is not None:
                    self.add(group.name, member.node)

    def add(self, group: str, node: str) -> None:
        self._of_group[group, node] += 1
        self._of_all[node] += 1

    def best_node(self, group: str, nodes: Collection[str]) -> str:
        """The node with the fewest members of the group, then of all groups; among equals one that
        depends on the group, so that not all of them begin with the same node."""
        return min(nodes, key=lambda node: (*self._load(group, node), _rank(group, node)))

    def surplus_of(self, group: Group) -> Member | None:
        """The member that the group does best without, when it has too many: one from the fullest
        node, as long as enough others serve; and one that is stuck otherwise.
        """
        if len(group.members) <= group.wanted:
            return None
        can_spare = group.num_serving > group.wanted
        candidates = [m for m in group.members if (m.serving if can_spare else m.stuck)]
        return max(candidates, key=lambda m: self._fullness(group.name, m), default=None)

    def best_move(
        self, groups: Iterable[Group], nodes: Collection[str], movable_to: Collection[str]
    ) -> Start | None:
        """The start of the move that betters the spread most, if one does."""
        moves = [self._move(group, nodes, movable_to) for group in groups]
        better = [move for move in moves if move is not None]
        return max(better, key=lambda move: move[:2])[2] if better else None

    def _move(
        self, group: Group, nodes: Collection[str], movable_to: Collection[str]
    ) -> tuple[int, int, Start] | None:
        """The best move of a member of a group at rest, and by how much more the node that it
        leaves has than the other one: of the group, and of all groups.

        It must have at least two more of the group; or one more, and at least two more of all.
        Either lowers the sum of the squares of what the nodes have, of the group first and then of
        all, so no move is ever undone.
        """
        used = set(nodes) & {member.node for member in group.members}
        at_rest = len(group.members) == group.num_serving == group.wanted
        if not at_rest or not used or not movable_to:
            return None
        (of_group, of_all), _ = max((self._load(group.name, node), node) for node in used)
        (there, all_there), target = min((self._load(group.name, n), n) for n in movable_to)
        more, more_of_all = of_group - there, of_all - all_there
        if more >= 2 or (more == 1 and more_of_all >= 2):
            return more, more_of_all, Start(group=group.name, node=target)
        return None

    def _load(self, group: str, node: str) -> tuple[int, int]:
        return self._of_group[group, node], self._of_all[node]

    def _fullness(self, group: str, member: Member) -> tuple[int, int, str]:
        of_group, of_all = (0, 0) if member.node is None else self._load(group, member.node)
        return of_group, of_all, member.name


def _rank(group: str, node: str) -> bytes:
    """Rendezvous hashing: an order of the nodes that differs from group to group."""
    return hashlib.blake2b(f"{group}\0{node}".encode(), digest_size=8).digest()


SURVIVORS = 2
"""Copies, on different machines, of each part that queries need: one outlives the other."""
