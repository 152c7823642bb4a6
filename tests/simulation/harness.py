"""Several regions over one faulty store, from one seed: the real driver, in virtual time.

Each region has a coordinator that is restarted when it dies, at times while its predecessor still
lives. People propose, try, commit, abort and roll back; releases load, fail to, or take long, and
some do badly as canaries. After the noise comes a quiet time in which everything must converge.
What happened is in `History`.
"""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

from cluster.config import RolloutPolicy
from cluster.coordination import Decide, RolloutDriver
from cluster.errors import Fenced, OutcomeUnknown, RaygionError
from cluster.numbered_object import NumberedLog
from cluster.releases import RELEASE_LOG, Canary, LogEntry, Release, Rollback, WaitFor
from cluster.rollout import Rollout, RolloutSettings
from cluster.rollout_events import Append, CanaryFaulted, Outcome, Prepared, PrepareFailed
from tests.fakes import contents
from tests.simulation.faulty_store import FaultyStore, Objects, Weather, Write
from tests.simulation.history import History, Observation, Request
from tests.simulation.sim_time import Process, Scheduler

SETTINGS = RolloutSettings(prepare_retry_s=5.0, switch_margin_s=2.0, leader_lapse_s=10.0)
NOISE_S = 150.0
QUIET_MAX_S = 180.0
SLICE_S = 5.0
SETTLED_SLICES = 3


class Incarnation(Process):
    """One life of a region's coordinator: what `actors.coordinator` does, in virtual time."""

    def __init__(self, world: World, region: str, number: int) -> None:
        name = f"{region}/{number}"
        self.world = world
        self.region = region
        self.rng = random.Random(f"{world.seed}/{name}")
        self.inbox: deque[Request | Outcome] = deque()
        self.loaded: set[int] = set()
        self._ids = 0
        self.rollout = Rollout(region=region, settings=SETTINGS)
        super().__init__(world.scheduler, name)
        store = FaultyStore(world.objects, world.scheduler, self, self.rng, world.weather)
        self.driver = RolloutDriver(
            rollout=self.rollout,
            store=store,
            log=NumberedLog(store, RELEASE_LOG, rng=self.rng, sleep=self.sleep),
            host=self,
            clock=self,
            new_id=self._new_id,
        )

    def monotonic_s(self) -> float:
        return self.world.scheduler.now_s

    def wall_ms(self) -> int:
        return int((self.world.scheduler.now_s + self.world.skews_s[self.region]) * 1000)

    def _new_id(self) -> str:
        self._ids += 1
        return f"{self.name}-{self._ids}"

    def body(self) -> None:
        steps = 0
        while True:
            try:
                self.driver.step(exchange_heartbeats=steps % 2 == 0)
                steps += 1
            except Fenced:
                return
            except RaygionError:
                self.world.count_error()
            self._judge()
            self.observe()
            self.sleep(self.rng.uniform(0.1, 1.0))
            if self.inbox:
                self._take(self.inbox.popleft())
                self.observe()

    def _judge(self) -> None:
        """Some canaries do badly where the leader is, some elsewhere; it shows sooner or later."""
        canary = self.rollout.canary(self.wall_ms())
        if canary is None or canary.release % 3 == 0:
            return
        suffers = self.rollout.leads == (canary.release % 3 == 1)
        if suffers and self.rng.random() < 0.2:
            told = (self.world.scheduler.now_s, self.name, canary.release)
            self.world.history.faults.append(told)
            self.inbox.appendleft(CanaryFaulted(release=canary.release, reason="too slow"))

    def _take(self, item: Request | Outcome) -> None:
        if isinstance(item, Request):
            self._serve(item)
            return
        try:
            self.driver.observe(item)
        except RaygionError:
            self.world.count_error()

    def _serve(self, request: Request) -> None:
        def decide(rollout: Rollout, now_ms: int, commit_id: str) -> Append:
            append = request.decide(rollout, now_ms, commit_id)
            request.commit_ids.append(append.entry.commit_id)
            return append

        try:
            state = self.driver.request(decide)
        except OutcomeUnknown:
            return
        except RaygionError:
            request.outcome = "failed"
        else:
            request.outcome = "ok"
            request.state_position = state.position

    def observe(self) -> None:
        """Notes what this incarnation believes."""
        state = self.rollout.state
        opened = state.open_proposal()
        canary = state.canary_at(self.wall_ms())
        tries = self.rollout.canary(self.wall_ms())
        self.world.history.observations.append(
            Observation(
                at_s=self.world.scheduler.now_s,
                region=self.region,
                incarnation=self.name,
                position=state.position,
                epoch=state.epoch,
                leader=state.leader,
                leads=self.rollout.leads,
                switches=tuple((s.release, s.at_ms) for s in state.switches),
                wall_ms=self.wall_ms(),
                current=state.current(self.wall_ms()),
                open_release=None if opened is None else opened.release.number,
                canary=None if canary is None else (canary.release, canary.percent),
                tries=None if tries is None else tries.release,
                num_void=state.num_void,
            )
        )

    def prepare(self, release: Release) -> None:
        fate = self.rng.random() if self.world.noisy else 1.0
        took_s = self.rng.uniform(20.0, 45.0) if fate < 0.15 else self.rng.uniform(0.1, 5.0)
        fails = 0.15 <= fate < 0.3
        self.world.scheduler.after(took_s, lambda: self._finish(release.number, fails))

    def _finish(self, number: int, fails: bool) -> None:
        if self.killed or self.ended:
            return
        if fails:
            self.inbox.append(PrepareFailed(release=number, reason="the dice said no"))
            return
        self.loaded.add(number)
        self.world.history.prepared.append((self.world.scheduler.now_s, self.region, number))
        self.inbox.append(Prepared(release=number))

    def retire(self, number: int) -> None:
        self.loaded.discard(number)
        told = (self.name, number, self.rollout.state.position, self.wall_ms())
        self.world.history.retired.append(told)


class World:
    """The regions, the store, the people and the accidents of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.scheduler = Scheduler()
        self.objects = Objects()
        self.history = History(writes=self.objects.writes, content=self.objects.content)
        self.noisy = True
        self.errors = 0
        roughness = self.rng.random()
        self.weather = Weather(
            fault_share=0.12 * roughness, slow_share=0.03 * roughness, crash_share=0.002 * roughness
        )
        self._accident_gap_s = self.rng.uniform(4.0, 40.0)
        self.regions = tuple("abcde"[: self.rng.randint(1, 5)])
        self.skews_s = {region: self.rng.uniform(-0.5, 0.5) for region in self.regions}
        self._lives = dict.fromkeys(self.regions, 0)
        self.named: dict[str, Incarnation] = {}

    def run(self) -> History:
        try:
            for region in self.regions:
                self.scheduler.after(self.rng.uniform(0.0, 5.0), self._starter(region))
            self._repeat(self._ask_something, 0.5, 6.0)
            self._repeat(self._have_an_accident, 0.5, 2 * self._accident_gap_s)
            self._repeat(self._cut_somebody_off, 10.0, 60.0)
            self._repeat(self._let_a_lapsed_leader_write, 5.0, 60.0)
            self.scheduler.run(NOISE_S)
            self.noisy = False
            self.weather.clear_up()
            self._settle()
        finally:
            self.scheduler.close()
        return self.history

    def count_error(self) -> None:
        self.errors += 1

    def _settle(self) -> None:
        quiet = 0
        length = -1
        while self.scheduler.now_s < NOISE_S + QUIET_MAX_S:
            self.scheduler.run(self.scheduler.now_s + SLICE_S)
            unsettled = self.unsettled()
            quiet = quiet + 1 if not unsettled and length == len(self.objects.log()) else 0
            length = len(self.objects.log())
            if quiet >= SETTLED_SLICES:
                return
        self.history.failures += unsettled or ["the log goes on growing"]

    def unsettled(self) -> list[str]:
        """What is not as it must become once nothing disturbs any more."""
        length = len(self.objects.log())
        problems = []
        leaders = 0
        currents = set()
        for region in self.regions:
            incarnation = self.named.get(region)
            if incarnation is None or incarnation.ended:
                problems.append(f"{region} has no coordinator")
                continue
            state = incarnation.rollout.state
            current = state.current(incarnation.wall_ms())
            currents.add(current)
            leaders += incarnation.rollout.leads
            opened = state.open_proposal()
            if state.position != length:
                problems.append(f"{region} is at {state.position} of {length}")
            if opened is not None and opened.auto_commit:
                problems.append(f"release {opened.release.number} is still open in {region}")
            if opened is not None and self._is_at_fault(region, opened.release.number):
                problems.append(f"release {opened.release.number} is open in spite of its fault")
            if current is not None and not {current} <= (
                incarnation.rollout.prepared() & incarnation.loaded
            ):
                problems.append(f"{region} does not hold its current release {current}")
        if leaders != 1:
            problems.append(f"{leaders} coordinators lead")
        if len(currents) > 1:
            problems.append(f"the regions differ on the current release: {currents}")
        return problems

    def _is_at_fault(self, region: str, release: int) -> bool:
        """Whether the region's living coordinator has found a fault, and no dead one alone."""
        name = self.named[region].name
        return any(found[1:] == (name, release) for found in self.history.faults)

    def _repeat(self, action: Callable[[], None], least_s: float, most_s: float) -> None:
        def again() -> None:
            if self.noisy:
                action()
                self.scheduler.after(self.rng.uniform(least_s, most_s), again)

        self.scheduler.after(self.rng.uniform(least_s, most_s), again)

    # Lives and deaths of coordinators.

    def _starter(self, region: str) -> Callable[[], None]:
        return lambda: self._start(region)

    def _start(self, region: str) -> None:
        self._lives[region] += 1
        self.named[region] = Incarnation(self, region, self._lives[region])
        self._watch(self.named[region])

    def _watch(self, incarnation: Incarnation) -> None:
        """Starts the coordinator anew when it has died, unless another has the name by then."""
        if self.named[incarnation.region] is not incarnation:
            return
        if incarnation.killed or incarnation.ended:
            self.scheduler.after(self.rng.uniform(0.5, 4.0), self._starter(incarnation.region))
        else:
            self.scheduler.after(1.0, lambda: self._watch(incarnation))

    def _have_an_accident(self) -> None:
        region = self.rng.choice(self.regions)
        incarnation = self.named.get(region)
        if incarnation is None or incarnation.killed:
            return
        if self.rng.random() < 0.3:
            # Taken for dead, it goes on beside its successor: for a while, or for good.
            self._start(region)
            if self.rng.random() < 0.7:
                self.scheduler.after(self.rng.uniform(0.1, 30.0), incarnation.kill)
        else:
            incarnation.kill()

    def _cut_somebody_off(self) -> None:
        leading = [i.name for i in self.named.values() if i.rollout.leads]
        names = leading or [incarnation.name for incarnation in self.named.values()]
        if names:
            name = self.rng.choice(names)
            self.weather.cut_off.add(name)
            back_s = self.rng.uniform(1.0, 40.0)
            self.scheduler.after(back_s, lambda: self.weather.cut_off.discard(name))

    # What people ask for.

    def _ask_something(self) -> None:
        leading = [i for i in self.named.values() if i.rollout.leads and not i.killed]
        asked = list(self.named.values())
        if leading and self.rng.random() < 0.85:
            asked = leading
        if not asked:
            return
        incarnation = self.rng.choice(asked)
        kind, decide = self._wish(incarnation)
        request = Request(kind, incarnation.region, decide)
        self.history.requests.append(request)
        incarnation.inbox.append(request)

    def _wish(self, incarnation: Incarnation) -> tuple[str, Decide]:
        state = incarnation.rollout.state
        number = max(1, state.next_release - 1 - (self.rng.random() < 0.3))
        targets = tuple(self.rng.sample(self.regions, self.rng.randint(1, len(self.regions))))
        auto = self.rng.random() < 0.5
        some = tuple(self.rng.sample(targets, self.rng.randint(1, len(targets))))
        wait_for: WaitFor = self.rng.choice(["all", "quorum", some])
        policy = RolloutPolicy(wait_for=wait_for, prepare_timeout_s=30.0)
        percent = self.rng.choice([0, 1, 5, 25, 50, 99])
        kind = self.rng.choice(["propose", "propose", "propose", "commit", "abort", "rollback"])
        opened = state.open_proposal() if state.switches else None
        if opened is not None and not opened.auto_commit and self.rng.random() < 0.7:
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
            "canary": lambda r, now, cid: r.share(number, percent, now_ms=now, commit_id=cid),
            "commit": lambda r, now, cid: r.commit(number, now_ms=now, commit_id=cid),
            "abort": lambda r, now, cid: r.abort(number, reason="", now_ms=now, commit_id=cid),
            "rollback": lambda r, now, cid: r.rollback(None, now_ms=now, commit_id=cid),
        }
        return kind, wishes[kind]

    def _let_a_lapsed_leader_write(self) -> None:
        """A leader of an epoch gone by writes without looking: it must do no harm."""
        state = next((i.rollout.state for i in self.named.values()), None)
        if state is None or state.epoch < 2 or not state.proposals:
            return
        position = len(self.objects.log()) + 1
        now_ms = int(self.scheduler.now_s * 1000)
        told = {
            "epoch": self.rng.randint(1, state.epoch - 1),
            "commit_id": f"lapsed-{position}",
            "at_ms": now_ms,
        }
        entry: LogEntry
        if self.rng.random() < 0.5:
            release = self.rng.choice(list(state.proposals))
            entry = Rollback.model_validate({**told, "release": release, "switch_at_ms": now_ms})
        else:
            release = max(state.proposals)
            entry = Canary.model_validate({**told, "release": release, "percent": 50})
        path = f"{RELEASE_LOG}/{position:020}.json"
        now_s = self.scheduler.now_s
        self.objects.create(Write(at_s=now_s, path=path, data=entry.to_bytes(), writer="lapsed"))


class _OneReader:
    """Stands in for the threads that read a log: one after the other, in the same order always."""

    def __init__(self, *args: Any) -> None:
        """Takes what the real one takes."""

    def __enter__(self) -> _OneReader:
        return self

    def __exit__(self, *args: object) -> None:
        """Nothing to end."""

    def map(self, read: Callable[[int], bytes], numbers: Iterable[int]) -> Iterator[bytes]:
        return iter([read(number) for number in numbers])


def simulate(seed: int) -> History:
    """The history of a seed: the same one each time."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch("cluster.numbered_object.ThreadPoolExecutor", _OneReader))
        return World(seed).run()
