"""What people ask of the release log: releases proposed, tried, committed, aborted, rolled back."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from cluster.releases.driver import Decide
from cluster.releases.entries import LogState, WaitFor
from cluster.releases.events import Append
from cluster.releases.rollout import Rollout
from cluster.releases.settings import RolloutPolicy
from tests.simulation.judging.checkers import NONSENSE
from tests.simulation.judging.history import Request
from tests.simulation.world.coordinators import Incarnation
from tests.support.fakes import contents

if TYPE_CHECKING:
    from tests.simulation.harness import World

POLICY = RolloutPolicy(prepare_timeout_s=8.0)
_KINDS = ("propose", "propose", "propose", "rollback", "rollback", "rollback", "abort")
_KINDS_WHILE_OPEN = ("commit", "commit", "abort", "rollback", "rollback", "propose")


def propose_for_all(world: World, *, auto_commit: bool = True) -> None:
    """A release for all regions, by whoever leads."""
    leader = next((r for r in world.regions.values() if r.leads), None)
    if leader is None or leader.coordinator is None:
        again = functools.partial(propose_for_all, world, auto_commit=auto_commit)
        world.scheduler.after(0.1, again)
        return
    targets = tuple(world.regions)

    def decide(rollout: Rollout, now_ms: int, commit_id: str) -> Append:
        return rollout.propose(
            contents(commit_id),
            targets=targets,
            auto_commit=auto_commit,
            policy=POLICY,
            now_ms=now_ms,
            commit_id=commit_id,
        )

    request = Request(world.scheduler.now_s, "propose", leader.name, decide)
    world.history.requests.append(request)
    leader.coordinator.tell(request)


def _share(number: int, percent: int) -> Decide:
    return lambda r, now, cid: r.share(number, percent, now_ms=now, commit_id=cid)


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
                self._ask(leader, "canary", _share(opened.release.number, 50))
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
        self._ask(coordinator, *self._wish(coordinator))

    def _ask(self, coordinator: Incarnation, kind: str, decide: Decide) -> None:
        region = coordinator.region.name
        request = Request(self._world.scheduler.now_s, kind, region, decide)
        self._world.history.requests.append(request)
        coordinator.tell(request)

    def _wish(self, incarnation: Incarnation) -> tuple[str, Decide]:
        rng, state = self._rng, incarnation.rollout.state
        if rng.random() < 0.08:
            return NONSENSE, self._nonsense(state)
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
            kinds = ("propose",)
        kind = rng.choice(kinds)
        opened = opened if state.switches else None
        if opened is not None and not opened.auto_commit and rng.random() < 0.6:
            kind, number = "canary", opened.release.number
        wishes: dict[str, Decide] = {
            "propose": lambda r, now, cid: r.propose(
                contents(cid),
                targets=targets,
                auto_commit=auto,
                policy=policy,
                now_ms=now,
                commit_id=cid,
            ),
            "canary": _share(number, percent),
            "commit": lambda r, now, cid: r.commit(number, now_ms=now, commit_id=cid),
            "abort": lambda r, now, cid: r.abort(number, reason="", now_ms=now, commit_id=cid),
            "rollback": lambda r, now, cid: r.rollback(
                back_to, force=force, now_ms=now, commit_id=cid
            ),
        }
        return ("forced rollback" if kind == "rollback" and force else kind), wishes[kind]

    def _nonsense(self, state: LogState) -> Decide:
        """What must be refused, whatever has happened by the time that it is looked at."""
        unknown = state.next_release + 1000
        never = self._rng.choice([-1, 0, unknown, *state.aborted(3)])
        share = self._rng.choice([-1, 100])
        first = next(iter(self._world.regions))
        twice = (first, first)
        wishes: list[Decide] = [
            lambda r, now, cid: r.rollback(never, force=True, now_ms=now, commit_id=cid),
            lambda r, now, cid: r.commit(never, now_ms=now, commit_id=cid),
            lambda r, now, cid: r.abort(never, reason="", now_ms=now, commit_id=cid),
            _share(never, 5),
            _share(max(1, state.next_release - 1), share),
            lambda r, now, cid: r.propose(
                contents(cid), targets=twice, auto_commit=True, now_ms=now, commit_id=cid
            ),
        ]
        return self._rng.choice(wishes)
