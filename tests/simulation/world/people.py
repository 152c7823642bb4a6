"""What people ask of the release log: releases proposed, tried, committed, aborted, rolled back."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from cluster.releases.entries import LogState, ReleaseContents, WaitFor
from cluster.releases.requests import (
    AbortRelease,
    CommitRelease,
    ProposeRelease,
    ReleaseRequest,
    RollBackTo,
    SetShare,
)
from cluster.releases.settings import RolloutPolicy
from tests.simulation.judging.history import Request
from tests.simulation.world.coordinators import Incarnation
from tests.support.fakes import contents

if TYPE_CHECKING:
    from tests.simulation.harness import World

POLICY = RolloutPolicy(prepare_timeout_s=8.0)
_KINDS = (*[ProposeRelease] * 3, *[RollBackTo] * 3, AbortRelease)
_KINDS_WHILE_OPEN = (*[CommitRelease] * 2, AbortRelease, *[RollBackTo] * 2, ProposeRelease)


def propose_for_all(world: World, *, auto_commit: bool = True) -> None:
    """A release for all regions, by whoever leads."""
    leader = next((r for r in world.regions.values() if r.leads), None)
    if leader is None or leader.coordinator is None:
        again = functools.partial(propose_for_all, world, auto_commit=auto_commit)
        world.scheduler.after(0.1, again)
        return
    request = ProposeRelease(
        contents=new_contents(world),
        targets=tuple(world.regions),
        auto_commit=auto_commit,
        policy=POLICY,
    )
    ask(world, leader.coordinator, request)


def ask(
    world: World, coordinator: Incarnation, asked: ReleaseRequest, *, makes_sense: bool = True
) -> None:
    request = Request(world.scheduler.now_s, coordinator.region.name, asked, makes_sense)
    world.history.requests.append(request)
    coordinator.tell(request)


def new_contents(world: World) -> ReleaseContents:
    """Other contents than those of any request before."""
    return contents(str(len(world.history.requests)))


class People:
    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.rng
        self._is_trying = False
        world.repeat(self._ask_something, 0.15, 1.0)

    def leave_something_undone(self, end_s: float) -> None:
        """When the quiet begins at `end_s`; it must come to its end by itself."""
        scheduler, draw = self._world.scheduler, self._rng.random()
        if draw < 0.3:
            last_s = end_s - self._rng.uniform(0.5, 3.0)
            scheduler.after(last_s - scheduler.now_s, lambda: propose_for_all(self._world))
        elif draw < 0.6:
            scheduler.after(end_s - 6.0 - scheduler.now_s, self._try_one)

    def _try_one(self) -> None:
        """Proposes a release and tries it, over and over until it is the canary."""
        if not self._world.noisy:
            return
        self._is_trying = True
        propose_for_all(self._world, auto_commit=False)
        for leader in (r.coordinator for r in self._world.regions.values() if r.leads):
            assert leader is not None
            opened = leader.rollout.state.open_proposal()
            if opened is not None:
                share = SetShare(release=opened.release.number, percent=50)
                ask(self._world, leader, share)
        self._world.scheduler.after(0.5, self._try_one)

    def _ask_something(self) -> None:
        if self._is_trying:
            return
        named = [r for r in self._world.regions.values() if r.coordinator is not None]
        leading = [r for r in named if r.leads]
        asked = leading if leading and self._rng.random() < 0.85 else named
        if not asked:
            return
        coordinator = self._rng.choice(asked).coordinator
        assert coordinator is not None
        state = coordinator.rollout.state
        if self._rng.random() < 0.08:
            ask(self._world, coordinator, self._nonsense(state), makes_sense=False)
        else:
            ask(self._world, coordinator, self._wish(state))

    def _wish(self, state: LogState) -> ReleaseRequest:
        rng = self._rng
        number = max(1, state.next_release - 1 - (rng.random() < 0.1))
        # The last number may be that of a release that is open, or was aborted.
        back_to = rng.choice([None, *(switch.release for switch in state.switches[-4:]), number])
        force = rng.random() < 0.5
        names = list(self._world.regions)
        # Most releases are for everybody, as in life; with few targets many regions catch up.
        some = rng.randint(1, len(names)) if rng.random() < 0.4 else len(names)
        targets = tuple(rng.sample(names, some))
        auto = rng.random() < 0.6
        wait_for: WaitFor = rng.choice(["all", "quorum", targets[: rng.randint(1, len(targets))]])
        policy = RolloutPolicy(wait_for=wait_for, prepare_timeout_s=POLICY.prepare_timeout_s)
        percent = rng.choice([0, 1, 5, 25, 50, 99])
        opened = state.open_proposal()
        kinds = _KINDS if opened is None else _KINDS_WHILE_OPEN
        if opened is None and len({switch.release for switch in state.switches}) < 2:
            kinds = (ProposeRelease,)
        kind = rng.choice(kinds)
        opened = opened if state.switches else None
        if opened is not None and not opened.auto_commit and rng.random() < 0.6:
            kind, number = SetShare, opened.release.number
        wishes: tuple[ReleaseRequest, ...] = (
            ProposeRelease(
                contents=new_contents(self._world),
                targets=targets,
                auto_commit=auto,
                policy=policy,
            ),
            SetShare(release=number, percent=percent),
            CommitRelease(release=number),
            AbortRelease(release=number, reason=""),
            RollBackTo(release=back_to, force=force),
        )
        return next(wish for wish in wishes if type(wish) is kind)

    def _nonsense(self, state: LogState) -> ReleaseRequest:
        """What must be refused, whatever has happened by the time that it is looked at."""
        unknown = state.next_release + 1000
        never = self._rng.choice([-1, 0, unknown, *state.aborted(3)])
        percent = self._rng.choice([-1, 100])
        first = next(iter(self._world.regions))
        return self._rng.choice(
            [
                RollBackTo(release=never, force=True),
                CommitRelease(release=never),
                AbortRelease(release=never, reason=""),
                SetShare(release=never, percent=5),
                SetShare(release=max(1, state.next_release - 1), percent=percent),
                ProposeRelease(
                    contents=new_contents(self._world), targets=(first, first), auto_commit=True
                ),
            ]
        )
