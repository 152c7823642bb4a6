"""The leading coordinator dies at each point of the protocol, one after the other.

A story of two regions is told once to count the points: every operation on the store and every
order to the region, before it takes effect and after. Then it is told again for each point, with
the leader killed there; it comes back, or never does. Each time the story must come to its end: the
log moves on within seconds, and nothing that was committed is lost or done twice.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import pytest

from cluster.errors import Conflict, NotFound
from cluster.releases.driver import RolloutDriver
from cluster.releases.entries import RELEASE_LOG, LogState, Release, ReleaseStatus
from cluster.releases.events import Prepared
from cluster.releases.fold import fold
from cluster.releases.log_entries import parse_entry
from cluster.releases.release_log import ReleaseLog
from cluster.releases.requests import ProposeRelease, ReleaseRequest, RollBackTo
from cluster.releases.rollout import Rollout
from cluster.releases.settings import RolloutPolicy
from cluster.store.object_store import ObjectStore
from tests.support.fakes import SimClock, contents, counting_ids

TICK_S = 0.5
PREPARE_TICKS = 3
STORY_TICKS_MAX = 120
BACK_AFTER_S = 1.5
MOVES_ON_WITHIN_S = 5.0
POLICY = RolloutPolicy(prepare_timeout_s=10.0)


class Killed(BaseException):
    """Ends a coordinator at whatever it was doing."""


@dataclass(slots=True)
class Fate:
    """At which point it dies, counted from 0: each action has one before and one after it."""

    dies_at: int | None = None
    points: int = 0
    dead: bool = False

    def around(self, action: Callable[[], object]) -> object:
        self._point()
        result = action()
        self._point()
        return result

    def _point(self) -> None:
        if self.dead or self.points == self.dies_at:
            self.dead = True
            raise Killed
        self.points += 1


@dataclass(slots=True)
class Objects:
    """The part of an object store that coordinators use, in a dictionary."""

    content: dict[str, bytes] = field(default_factory=dict)

    def get(self, path: str) -> bytes:
        if path not in self.content:
            raise NotFound(path)
        return self.content[path]

    def exists(self, path: str) -> bool:
        return path in self.content

    def put(self, path: str, data: bytes) -> None:
        self.content[path] = data

    def put_if_absent(self, path: str, data: bytes) -> None:
        if path in self.content:
            raise Conflict(path)
        self.content[path] = data

    def list_names(self, folder: str, start_after: str | None = None) -> list[str]:
        names = (
            path.removeprefix(f"{folder}/") for path in self.content if path.startswith(folder)
        )
        return sorted(name for name in names if start_after is None or name > start_after)

    def list_folders(self, folder: str) -> list[str]:
        return sorted({p.split("/")[1] for p in self.content if p.startswith(f"{folder}/")})

    def log(self) -> list[bytes]:
        return [self.content[path] for path in sorted(self.content) if path.startswith(RELEASE_LOG)]


class MortalStore:
    """The store as a coordinator sees it that may die at any operation."""

    def __init__(self, store: Objects, fate: Fate) -> None:
        self._store = store
        self._fate = fate

    def __getattr__(self, name: str) -> Callable[..., object]:
        operation = getattr(self._store, name)
        return lambda *args, **options: self._fate.around(lambda: operation(*args, **options))


@dataclass(slots=True)
class Coordinator:
    """One life: loads what it is told to load, within some ticks."""

    region: str
    life: int
    store: Objects
    clock: SimClock
    fate: Fate
    loading: dict[int, int] = field(default_factory=dict)
    rollout: Rollout = field(init=False)
    driver: RolloutDriver = field(init=False)

    def __post_init__(self) -> None:
        store = cast(ObjectStore, MortalStore(self.store, self.fate))
        rng = random.Random(0)
        self.rollout = Rollout(region=self.region)
        self.driver = RolloutDriver(
            rollout=self.rollout,
            store=store,
            log=ReleaseLog(store, rng=rng, sleep=self.clock.sleep),
            host=self,
            clock=self.clock,
            new_id=counting_ids(f"{self.region}/{self.life}"),
        )

    def prepare(self, release: Release) -> None:
        def begin() -> None:
            self.loading[release.number] = PREPARE_TICKS

        self.fate.around(begin)

    def retire(self, number: int) -> None:
        self.fate.around(lambda: self.loading.pop(number, None))

    def tick(self) -> None:
        self.driver.read()
        self.driver.decide(exchange_heartbeats=True)
        for number in list(self.loading):
            self.loading[number] -= 1
            if self.loading[number] == 0:
                del self.loading[number]
                self.driver.observe(Prepared(release=number))


@dataclass(slots=True)
class Story:
    """Release 1 is committed, then release 2, then people go back to release 1."""

    leader_fate: Fate
    comes_back: bool
    clock: SimClock = field(default_factory=SimClock)
    store: Objects = field(default_factory=Objects)
    living: dict[str, Coordinator] = field(default_factory=dict)
    died_s: float | None = None
    committed: list[int] = field(default_factory=list)
    log: list[bytes] = field(default_factory=list)
    state: LogState = field(default_factory=LogState)
    moved_on_after_s: float = 0.0

    def tell(self) -> None:
        self._start("a", 1, self.leader_fate)
        self._live(self.living["a"], self.living["a"].tick)
        self._start("b", 1, Fate())
        for _ in range(STORY_TICKS_MAX):
            for coordinator in list(self.living.values()):
                self._live(coordinator, coordinator.tick)
            self._bury_and_bring_back()
            self._look_at_the_log()
            if self._is_over():
                return
            self._ask_for_what_is_missing()
            self.clock.sleep(TICK_S)
        raise AssertionError(f"no end after {STORY_TICKS_MAX * TICK_S} s: {self.state}")

    def _start(self, region: str, life: int, fate: Fate) -> None:
        self.living[region] = Coordinator(region, life, self.store, self.clock, fate)

    def _live(self, coordinator: Coordinator, action: Callable[[], object]) -> None:
        try:
            action()
        except Killed:
            self.died_s = self.clock.now_s
            del self.living[coordinator.region]

    def _bury_and_bring_back(self) -> None:
        if self.died_s is None or not self.comes_back or "a" in self.living:
            return
        if self.clock.now_s - self.died_s >= BACK_AFTER_S:
            self._start("a", 2, Fate())

    def _ask_for_what_is_missing(self) -> None:
        """As a person would: looks at the log, and asks whoever leads for what is not there."""
        wanted: ReleaseRequest | None = None
        if self.state.open_proposal() is None and self.state.next_release <= 2:
            wanted = ProposeRelease(
                contents=contents(str(self.state.next_release)),
                targets=("a", "b"),
                auto_commit=True,
                policy=POLICY,
            )
        elif len(self.state.switches) == 2 and self.state.current(self.clock.wall_ms()) == 2:
            wanted = RollBackTo(release=1)
        leading = [c for c in self.living.values() if c.rollout.leads]
        if wanted is not None and leading:
            # One who has come back refuses what it has not loaded again yet: they ask once more.
            with contextlib.suppress(Conflict):
                self._live(leading[0], partial(leading[0].driver.request, wanted))

    def _look_at_the_log(self) -> None:
        log = self.store.log()
        assert log[: len(self.log)] == self.log, "what stood in the log has changed"
        for position in range(len(self.log) + 1, len(log) + 1):
            self.state = fold(self.state, parse_entry(log[position - 1], position=position))
            if self.died_s is not None and not self.moved_on_after_s:
                self.moved_on_after_s = self.clock.now_s - self.died_s
        self.log = log
        proposals = self.state.proposals.items()
        committed = [n for n, p in proposals if p.status is ReleaseStatus.COMMITTED]
        assert committed[: len(self.committed)] == self.committed, "a commit is lost"
        self.committed = committed

    def _is_over(self) -> bool:
        now_ms = self.clock.wall_ms()
        current = self.state.current(now_ms)
        return (
            len(self.state.switches) == 3
            and self.state.switches[-1].at_ms <= now_ms
            and all(c.rollout.state == self.state for c in self.living.values())
            and all(current in c.rollout.prepared() for c in self.living.values())
            and sum(c.rollout.leads for c in self.living.values()) == 1
        )


def points_of_the_story() -> int:
    fate = Fate()
    Story(fate, comes_back=True).tell()
    return fate.points


POINTS = points_of_the_story()


@pytest.mark.parametrize("comes_back", [True, False], ids=["restarted", "gone"])
@pytest.mark.parametrize("point", range(POINTS))
def test_the_story_ends_wherever_the_leader_dies(point: int, comes_back: bool) -> None:
    story = Story(Fate(dies_at=point), comes_back)
    story.tell()
    state = story.state
    assert story.died_s is not None
    assert [s.release for s in state.switches] == [1, 2, 1], "each asked for once, done once"
    assert story.committed == [1, 2]
    assert state.num_void == 0
    assert state.leader in story.living
    assert story.moved_on_after_s <= MOVES_ON_WITHIN_S


def test_there_are_points_all_over_the_protocol() -> None:
    assert POINTS > 100


def test_a_leader_that_is_not_killed_has_no_successor() -> None:
    story = Story(Fate(), comes_back=True)
    story.tell()
    assert (story.state.epoch, story.state.leader) == (1, "a")
