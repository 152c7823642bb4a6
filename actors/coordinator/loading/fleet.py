"""The detached actors of a region that work in groups: started, looked at, moved and ended.

`cluster.shards.placement` decides who runs where and who goes; this shell finds out what there is,
and carries it out. What it knows is lost with the coordinator, so it begins with what it finds.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from actors.runtime import names
from cluster.clock import Clock
from cluster.errors import Unavailable
from cluster.logs.events import EventLog
from cluster.regions.status import MachineSummary
from cluster.shards.placement import Dismiss, Group, Member, Start, plan

log = EventLog(__name__)
_DISMISS_AFTER_S = 10.0
"""Time from the first view without a member to the member's end: queries may be on their way to it.
"""
_SETTLED_AFTER_S = 15.0
"""A node that joined a moment ago may be gone in a moment."""
_STUCK_AFTER_S = 600.0
"""Longest time that loading may take."""
_AVOIDED_FOR_S = 600.0
"""A node on which a member got stuck is not moved to for so long."""


class Actors(Protocol):
    """The Ray cluster as a fleet needs it; `actors.runtime.wiring` implements it."""

    def live_nodes(self) -> dict[str, str]: ...

    def existing_actors(self) -> list[str]: ...

    def statuses(self, handles: Mapping[str, Any]) -> dict[str, Any]: ...

    def kill(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Kind:
    """A group that there should be, and how its members are made."""

    wanted: int
    make: Callable[[str, str], Any]
    """A handle of the member of that name: of the running one, or of a new one on that node."""


@dataclass(slots=True)
class _MemberState:
    """The knowledge of one member."""

    handle: Any
    node: str | None
    """Node on which the member was seen last, or was told to start."""
    status: Any = None
    """Status that the member gave when it was asked last; None when it gave none. Its attribute
    `node` is the id of the node on which it runs.
    """
    idle_since_s: float | None = None
    """Time since which the member does not do all of its work."""
    dismissed_s: float | None = None
    """Time at which the member was found to be one too many."""


class Fleet:
    """Thread-safe as far as `fill` and `members` go; the rest is for one thread at a time."""

    def __init__(self, actors: Actors, clock: Clock) -> None:
        self._actors = actors
        self._clock = clock
        self._groups: dict[str, dict[str, _MemberState]] = {}
        """Members by group and by name."""
        self._nodes: Mapping[str, str] = {}
        self._seen_s: dict[str, float] = {}
        """Time at which each node that is alive was first seen."""
        self._avoided_until_s: dict[str, float] = {}
        self._lock = threading.RLock()
        """Held while members come and go."""

    @property
    def nodes(self) -> Mapping[str, str]:
        """The addresses of the nodes that were alive when last looked, by their ids."""
        return self._nodes

    @property
    def settled_nodes(self) -> Collection[str]:
        """The nodes to which a member may move."""
        now_s = self._clock.monotonic_s()
        return {
            node
            for node, since_s in self._seen_s.items()
            if now_s - since_s >= _SETTLED_AFTER_S and self._avoided_until_s.get(node, 0.0) <= now_s
        }

    def groups(self) -> set[str]:
        """The groups that have members, whichever process has started them."""
        return {names.group_of(name) for name in self._actors.existing_actors()} - {""}

    def members(self, group: str) -> tuple[str, ...]:
        """The names of those that stay, in the order of their numbers."""
        with self._lock:
            staying = [n for n, k in self._groups.get(group, {}).items() if k.dismissed_s is None]
        return tuple(sorted(staying, key=names.number_of))

    def fill(self, group: str, kind: Kind) -> dict[str, Any]:
        """The handles of the members that stay; those that are missing are started first, and made
        anew when they are gone for good. Raises Unavailable when no node is alive.
        """
        with self._lock:
            if group not in self._groups:
                self._adopt(group, kind)
            known = self._groups[group]
            for name in self.members(group):
                if known[name].status is None:
                    known[name].handle = kind.make(name, self._alive(known[name].node))
            if len(self.members(group)) < kind.wanted:
                self._look_at_nodes()
                for step in plan(self._as_groups({group: kind}), self._nodes, ()):
                    if isinstance(step, Start):
                        self._start(step, kind)
            return {name: known[name].handle for name in self.members(group)}

    def handles(self, group: str) -> list[Any]:
        """The handles of all known members, including those that leave."""
        with self._lock:
            return [known.handle for known in self._groups.get(group, {}).values()]

    def look(self) -> None:
        """Asks all members how they are, which takes seconds when one does not answer."""
        self._look_at_nodes()
        known = self._all_members()
        statuses = self._actors.statuses({name: one.handle for name, one in known.items()})
        for name, one in known.items():
            one.status = statuses.get(name)
            if one.status is not None:
                one.node = one.status.node

    def status(self, name: str) -> Any:
        """The status that the member gave when it was asked last; None when it did not answer."""
        known = self._groups.get(names.group_of(name), {}).get(name)
        return None if known is None else known.status

    def placements(self) -> dict[str, str]:
        """The node of each member that answered when it was asked last, by its name."""
        return {n: k.status.node for n, k in self._all_members().items() if k.status is not None}

    def spread(self, kinds: Mapping[str, Kind], serves: Callable[[str], bool]) -> None:
        """Takes the next steps towards groups of the wanted sizes that are spread over the nodes,
        and ends the members that have left. Call it after `look`.

        `serves`: whether a member does all of its work.
        """
        now_s = self._clock.monotonic_s()
        for name, known in self._all_members().items():
            if names.group_of(name) not in kinds or serves(name):
                known.idle_since_s = None
            elif known.idle_since_s is None:
                known.idle_since_s = now_s
        with self._lock:
            groups = self._as_groups(kinds)
            for step in plan(groups, self._nodes, self.settled_nodes):
                match step:
                    case Start():
                        log.info(
                            "member.started",
                            "{group}: one more member, on node {node}",
                            group=step.group,
                            node=step.node,
                        )
                        self._start(step, kinds[step.group])
                    case Dismiss():
                        self._dismiss(step.member, now_s)
        self._end_dismissed(now_s)

    def drop(self, groups: Iterable[str]) -> None:
        """Ends all members of groups that are needed no more."""
        gone = set(groups)
        if not gone:
            return
        with self._lock:
            for group in gone:
                self._groups.pop(group, None)
        for name in self._actors.existing_actors():
            if names.group_of(name) in gone:
                self._actors.kill(name)

    def _look_at_nodes(self) -> None:
        now_s = self._clock.monotonic_s()
        if not (nodes := self._actors.live_nodes()):
            raise Unavailable("Ray names no node of the cluster that is alive")
        self._nodes = nodes
        self._seen_s = {node: self._seen_s.get(node, now_s) for node in self._nodes}

    def _adopt(self, group: str, kind: Kind) -> None:
        """Takes in the members that an earlier coordinator has started."""
        self._look_at_nodes()
        running = [n for n in self._actors.existing_actors() if names.group_of(n) == group]
        self._groups[group] = {
            n: _MemberState(kind.make(n, self._alive(None)), None) for n in running
        }

    def _alive(self, node: str | None) -> str:
        """The node, or another one if that is gone."""
        return node if node is not None and node in self._nodes else next(iter(self._nodes))

    def _start(self, step: Start, kind: Kind) -> None:
        known = self._groups[step.group]
        taken = {names.number_of(name) for name in known}
        number = next(n for n in range(len(taken) + 1) if n not in taken)
        name = names.member(step.group, number)
        known[name] = _MemberState(kind.make(name, step.node), step.node)

    def _dismiss(self, member: Member, now_s: float) -> None:
        log.info(
            "member.dismissed",
            "{member} on node {node} is one too many",
            member=member.name,
            node=member.node,
        )
        self._groups[names.group_of(member.name)][member.name].dismissed_s = now_s
        if member.stuck and member.node is not None:
            self._avoided_until_s[member.node] = now_s + _AVOIDED_FOR_S

    def _end_dismissed(self, now_s: float) -> None:
        for name, known in self._all_members().items():
            if known.dismissed_s is not None and now_s - known.dismissed_s >= _DISMISS_AFTER_S:
                self._actors.kill(name)
                with self._lock:
                    self._groups.get(names.group_of(name), {}).pop(name, None)

    def _all_members(self) -> dict[str, _MemberState]:
        with self._lock:
            return {name: one for group in self._groups.values() for name, one in group.items()}

    def _as_groups(self, kinds: Mapping[str, Kind]) -> list[Group]:
        """All groups as placement sees them. Those of no kind are only counted, and stay."""
        groups = []
        for group in self._groups:
            members = tuple(
                self._member(group, name, group in kinds) for name in self.members(group)
            )
            wanted = kinds[group].wanted if group in kinds else len(members)
            groups.append(Group(name=group, wanted=wanted, members=members))
        return groups

    def _member(self, group: str, name: str, counted_on: bool) -> Member:
        known = self._groups[group][name]
        now_s = self._clock.monotonic_s()
        idle = known.idle_since_s is not None
        return Member(
            name=name,
            node=known.node,
            serving=counted_on and known.status is not None and not idle,
            stuck=idle and now_s - (known.idle_since_s or 0.0) >= _STUCK_AFTER_S,
        )


def machines_of(
    nodes: Mapping[str, str], actors: Mapping[str, str], gateways: Mapping[str, str]
) -> tuple[MachineSummary, ...]:
    """The machines with the actors that run on them. `nodes`: the addresses of those that are
    alive, by their ids. `actors` and `gateways`: the node of each replica or embedder, and of each
    gateway, by name.
    """
    by_node = sorted(nodes.items(), key=lambda node: (node[1], node[0]))
    return tuple(_machine(node, address, actors, gateways) for node, address in by_node)


def _machine(
    node: str, address: str, actors: Mapping[str, str], gateways: Mapping[str, str]
) -> MachineSummary:
    here = [name for name, at in actors.items() if at == node]
    replicas = [name for name in here if names.is_replica(name)]
    return MachineSummary(
        address=address,
        node=node,
        replicas=dict(sorted(Counter(map(names.corpus_of, replicas)).items())),
        embedders=len(here) - len(replicas),
        gateways=sum(at == node for at in gateways.values()),
    )
