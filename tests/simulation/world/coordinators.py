"""A region's coordinator in virtual time: what `actors.coordinator.rollout_thread` does around the
same driver.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from cluster.errors import Fenced, LogUnreadable, OutcomeUnknown, RaygionError, Unavailable
from cluster.releases.driver import RolloutDriver
from cluster.releases.entries import CanaryShare, LogEntry, Release, ReleaseStatus, Rollback
from cluster.releases.events import Append, CanaryFaulted, Prepared, PrepareFailed, ReleaseOutcome
from cluster.releases.release_log import ReleaseLog
from cluster.releases.requests import ReleaseRequest
from cluster.releases.rollout import Rollout
from cluster.serving.view import Pulse, RegionView
from tests.simulation.clocks.sim_time import Process, Signal
from tests.simulation.judging.history import Observation, Request
from tests.simulation.world.faulty_store import FaultyStore
from tests.simulation.world.network import STORE
from tests.simulation.world.regions import SNAPSHOT_ENTRIES, STORE_ID, Region, release_view

if TYPE_CHECKING:
    from tests.simulation.harness import World

TICK_S = 0.5
REFRESH_TIMEOUT_S = 2.0
REQUEST_TIMEOUT_S = 60.0
RETIRE_AFTER_S = 2.0
"""From the view that names a release no more to its unloading."""
OBSERVED_EVERY_S = 2.0


class NotingRollout(Rollout):
    """A rollout that tells of each entry that it decides on for a person."""

    note: Callable[[LogEntry], None]

    def decide(self, request: ReleaseRequest, *, now_ms: int, commit_id: str) -> Append:
        append = super().decide(request, now_ms=now_ms, commit_id=commit_id)
        self.note(append.entry)
        return append


class Incarnation(Process):
    """One life of a region's coordinator."""

    def __init__(self, world: World, region: Region) -> None:
        region.lives += 1
        name = f"{region.name}/{region.lives}"
        super().__init__(world.scheduler, name)
        self.world = world
        self.region = region
        self.rng = random.Random(f"{world.seed}/{name}")
        self.view = RegionView(region=region.name)
        self.pulse = Pulse()
        self.rollout = NotingRollout(region=region.name, settings=world.scenario.settings)
        self.rollout.note = self._note
        self.store = FaultyStore(
            world.objects, world.network, self, region.name, self.rng, world.weather
        )
        self.driver = RolloutDriver(
            rollout=self.rollout,
            store=self.store,
            log=ReleaseLog(
                self.store,
                rng=self.rng,
                sleep=self.sleep,
                snapshot_entries=SNAPSHOT_ENTRIES,
            ),
            host=self,
            clock=region.clock,
            new_id=self._new_id,
            cluster_id=region.name,
            appended=self._nudge_others,
        )
        self._inbox: deque[Request] = deque()
        self._loaded: set[int] = set()
        self._preparing_until_s = 0.0
        self._serving: Request | None = None
        self._ids = 0
        self._woken = Signal(world.scheduler)
        self._is_woken = False
        self._begun = 0
        """Readings of the log."""
        self._readers: list[tuple[int, asyncio.Future[bool]]] = []
        """Who waits for a reading with this number or a later one."""
        self._exchanged_s = float("-inf")
        self._has_news = False
        """Whether the next heartbeat is not to wait for its time."""
        self._published: tuple[object, ...] = (None,)
        self._told: tuple[object, ...] = ()
        """What was observed last, and when."""
        self._told_s = 0.0

    def _new_id(self) -> str:
        self._ids += 1
        return f"{self.name}-{self._ids}"

    # What others call.

    def tell(self, request: Request) -> None:
        self._inbox.append(request)
        self.nudge()

    def observe(self, outcome: ReleaseOutcome) -> None:
        """At once, also while the store is waited for."""
        self.driver.observe(outcome)
        self._publish()
        self._has_news = True
        self.nudge()

    def nudge(self) -> None:
        """The log may have grown: it is read at once instead of at its time."""
        self._is_woken = True
        self._woken.give()

    async def refresh(self) -> Pulse:
        """The pulse after a reading of the log that began after this call arrived."""
        came: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._readers.append((self._begun + 1, came))
        self.nudge()
        try:
            async with asyncio.timeout(REFRESH_TIMEOUT_S):
                complete = await came
        except TimeoutError:
            complete = False
        if not complete or self.is_gone:
            raise Unavailable("the release log cannot be read: the store does not answer")
        return self.pulse

    @property
    def is_gone(self) -> bool:
        return self.killed or self.ended

    @property
    def is_busy(self) -> bool:
        return self._serving is not None or bool(self._inbox)

    # The thread that drives the rollout.

    def body(self) -> None:
        while True:
            self._is_woken = False
            try:
                self._look()
            except Fenced:
                return
            except RaygionError:
                self.world.history.errors += 1
            self._judge()
            self._publish()
            if not self._is_woken:
                self._woken.wait(self, self.rng.uniform(0.9, 1.1) * TICK_S)
            if self._inbox:
                self._serving = self._inbox.popleft()
                self._serve(self._serving)
                self._serving = None
                self._publish()

    def _look(self) -> None:
        """Reads the log, lets those go on who wait for that, and does what follows from it."""
        self._begun += 1
        complete = False
        try:
            self.driver.read()
            complete = True
        except LogUnreadable:
            # What it could read still says what to hold.
            self.world.history.errors += 1
        finally:
            self._publish()
            self._end_reading(complete)
        now_s = self.scheduler.now_s
        exchange = self._has_news or now_s - self._exchanged_s >= TICK_S / 2
        self._has_news = False
        self.driver.decide(exchange_heartbeats=exchange)
        if exchange:
            self._exchanged_s = now_s

    def _end_reading(self, complete: bool) -> None:
        waiting, self._readers = self._readers, []
        for number, came in waiting:
            if number > self._begun:
                self._readers.append((number, came))
            elif not came.done():
                came.set_result(complete)

    def _serve(self, request: Request) -> None:
        if self.scheduler.now_s - request.at_s > REQUEST_TIMEOUT_S:
            # Whoever asked has given it up, and was told that nothing is done.
            request.outcome = "failed"
            return

        try:
            self.driver.request(request.asked)
        except OutcomeUnknown:
            return
        except RaygionError:
            request.outcome = "failed"
        else:
            request.outcome = "ok"

    def _note(self, entry: LogEntry) -> None:
        """Of the request that is served: the entry that was decided on for it."""
        assert self._serving is not None
        self._serving.commit_ids.append(entry.commit_id)
        if isinstance(entry, Rollback):
            self._serving.was_loaded = entry.release in self._loaded

    def _nudge_others(self) -> None:
        for region in self.world.regions.values():
            if region is not self.region:
                self.world.network.send(self.region.name, region.name, region.nudge)

    def _judge(self) -> None:
        """Some canaries do badly where the leader is, some elsewhere; it shows sooner or later."""
        canary = self.rollout.canary(self.region.clock.wall_ms())
        if canary is None or canary.release % 4 == 0:
            return
        suffers = self.rollout.leads == (canary.release % 4 == 1)
        if suffers and self.rng.random() < 0.15:
            told = (self.world.scheduler.now_s, self.name, canary.release)
            self.world.history.faults.append(told)
            self.observe(CanaryFaulted(release=canary.release, reason="too slow"))

    # What it tells the gateways, and what it believes.

    def _publish(self) -> None:
        state, prepared = self.rollout.state, self.rollout.prepared()
        now_ms = self.region.clock.wall_ms()
        tries = self.rollout.canary(now_ms)
        held = self._loaded & prepared
        # A state is never changed: another content is another object.
        if state is not self._published[0] or (held, tries) != self._published[1:]:
            self._published = (state, held, tries)
            self._publish_view(held, tries if tries and tries.release in prepared else None)
        if (
            self.driver.freshness is not self.pulse.freshness
            or self.rollout.heartbeats is not self.pulse.regions
        ):
            self.pulse = replace(
                self.pulse, freshness=self.driver.freshness, regions=self.rollout.heartbeats
            )
        self._observe(now_ms, tries)

    def _publish_view(self, held: set[int], canary: CanaryShare | None) -> None:
        state = self.rollout.state
        view = RegionView(
            region=self.region.name,
            releases={n: release_view(n) for n in sorted(held)},
            switches=tuple(state.switches),
            canary=canary,
            revision=self.view.revision,
        )
        self.pulse = Pulse(
            freshness=self.driver.freshness,
            regions=self.rollout.heartbeats,
            switches=view.switches,
            store_id=STORE_ID,
            last_release=len(state.proposals),
            aborted={
                n: p.reason or ""
                for n, p in state.proposals.items()
                if p.status is ReleaseStatus.ABORTED
            },
        )
        if view != self.view:
            self.view = replace(view, revision=self._new_id())
            self.region.published(self)

    def _observe(self, now_ms: int, tries: CanaryShare | None) -> None:
        """What has changed, and all of it now and then: moments pass without an entry, too."""
        state, now_s = self.rollout.state, self.scheduler.now_s
        current = state.current(now_ms)
        told = (state.position, self.rollout.leads, current, tries)
        if told == self._told and now_s - self._told_s <= OBSERVED_EVERY_S:
            return
        self._told, self._told_s = told, now_s
        canary = state.canary_at(now_ms)
        opened = state.open_proposal()
        self.world.history.observations.append(
            Observation(
                at_s=now_s,
                region=self.region.name,
                incarnation=self.name,
                position=state.position,
                epoch=state.epoch,
                leader=state.leader,
                leads=self.rollout.leads,
                switches=tuple((s.release, s.at_ms) for s in state.switches),
                wall_ms=now_ms,
                current=current,
                open_release=None if opened is None else opened.release.number,
                canary=None if canary is None else (canary.release, canary.percent),
                tries=None if tries is None else tries.release,
                num_void=state.num_void,
            )
        )

    # What the rollout has the region do.

    def prepare(self, release: Release) -> None:
        fate = self.rng.random() if self.world.noisy else 1.0
        took_s = self.rng.uniform(4.0, 12.0) if fate < 0.1 else self.rng.uniform(0.05, 1.5)
        fails = 0.1 <= fate < 0.25
        if release.number in self.region.held:
            took_s, fails = self.rng.uniform(0.01, 0.3), self.world.noisy and fate < 0.05
        # One after the other, in the order that was asked for.
        now_s = self.scheduler.now_s
        self._preparing_until_s = max(now_s, self._preparing_until_s) + took_s
        wait_s = self._preparing_until_s - now_s
        self.scheduler.after(wait_s, lambda: self._finish(release.number, fails))

    def _finish(self, number: int, fails: bool) -> None:
        if self.is_gone:
            return
        if fails or self.world.network.is_cut(self.region.name, STORE):
            # Most failures are the store's, and pass.
            passes = not fails or self.rng.random() < 0.7
            self._fail(PrepareFailed(release=number, reason="no", retryable=passes))
            return
        self._loaded.add(number)
        if self.region.coordinator is self:
            self.region.held.add(number)
        self.world.history.prepared.append((self.world.scheduler.now_s, self.region.name, number))
        self.observe(Prepared(release=number))

    def _fail(self, failed: PrepareFailed) -> None:
        if not failed.retryable:
            told = (self.world.scheduler.now_s, self.region.name, failed.release)
            self.world.history.given_up.append(told)
        self.observe(failed)

    def retire(self, number: int) -> None:
        self._loaded.discard(number)
        told = (self.name, number, self.rollout.state.position, self.region.clock.wall_ms())
        self.world.history.retired.append(told)
        self._publish()
        self.world.scheduler.after(RETIRE_AFTER_S, lambda: self._unload(number))

    def _unload(self, number: int) -> None:
        # A leftover has no hold on the region's replicas any more.
        if self.region.coordinator is self and not self.is_gone and number not in self._loaded:
            self.region.held.discard(number)
