"""Several regions over one faulty network and store, from one seed, in virtual time.

Each region has a coordinator, the real driver in it, and a gateway that answers by the real rules
of consistency. Coordinators, gateways and whole regions die and come back, at times while a
predecessor still lives; ways are cut, clocks differ. People propose, try, commit, abort and roll
back; clients ask at every level and move between regions with their sessions. After the noise comes
a quiet time in which everything must converge and every question must be answered. What happened is
in `History`.
"""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from unittest import mock

from cluster.errors import Unavailable
from cluster.releases.entries import Switch
from cluster.releases.events import RegionStatus
from cluster.releases.log_entries import parse_entry
from cluster.releases.settings import RolloutSettings
from tests.simulation.clocks.sim_loop import SimLoop
from tests.simulation.clocks.sim_time import Scheduler
from tests.simulation.judging.history import History
from tests.simulation.world.accidents import Accidents
from tests.simulation.world.clients import Client
from tests.simulation.world.coordinators import Incarnation
from tests.simulation.world.faulty_store import Objects, Weather, read_together
from tests.simulation.world.gateways import Asked, Gateway, Outcome
from tests.simulation.world.network import STORE, Network, cities, placed
from tests.simulation.world.people import People, propose_for_all
from tests.simulation.world.regions import SKEW_MAX_MS, Region, RegionClock

REGIONS_MAX = 32
QUIET_MAX_S = 120.0
SLICE_S = 1.5
SETTLED_SLICES = 2
CALM_S = 15.0
"""At most: until there is something to serve everywhere."""
LAST_QUESTIONS_MAX_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What a simulation is like, apart from its seed."""

    regions: int | None = None
    """How many; None draws 3 to 32, mostly few."""
    in_one_city: bool | None = None
    """Where messages take less time than clocks are apart; None: in one seed of ten."""
    noise_s: float = 20.0
    clients: int = 3
    roughness: float | None = None
    """From 0, where the store and the network never fail, to 1; None draws it."""
    settings: RolloutSettings = field(default_factory=lambda: RolloutSettings(prepare_retry_s=2.0))


class World:
    """The regions, the store, the network, the people and the clients of one seed."""

    def __init__(self, seed: int, scenario: Scenario) -> None:
        self.seed = seed
        self.scenario = scenario
        self.rng = random.Random(seed)
        self.scheduler = Scheduler()
        self.loop = SimLoop(self.scheduler)
        self.objects = Objects()
        self.noisy = False
        self.weather = Weather()
        count = scenario.regions or _drawn_count(self.rng)
        self.noise_s = scenario.noise_s * min(1.0, (6 / count) ** 0.5)
        drawn = self.rng.random() < 0.1
        in_one_city = drawn if scenario.in_one_city is None else scenario.in_one_city
        places = dict(placed(self.rng, count, cities()[:1] if in_one_city else cities()))
        self.network = Network(
            self.scheduler,
            random.Random(f"{seed}/network"),
            places | {STORE: self.rng.choice(list(places.values()))},
        )
        self.regions = {name: Region(name, RegionClock(self.scheduler)) for name in places}
        for region in self.regions.values():
            region.clock.set_anew(self.rng)
        if self.rng.random() < 0.2:
            self.rng.choice(list(self.regions.values())).is_damaged = True
        self.history = History(
            regions=tuple(self.regions), writes=self.objects.writes, content=self.objects.content
        )
        self.levels: dict[int, str] = {}
        """Of consistency, by query."""
        self._queries = 0
        self._has_user_policy = self.rng.random() < 0.15
        self._hits: dict[tuple[str, int], str] = {}

    def run(self) -> History:
        with self.playing():
            self._live()
        return self.history

    @contextlib.contextmanager
    def playing(self) -> Iterator[None]:
        """Time passes inside of this; in the end all processes do."""
        with contextlib.ExitStack() as stack:
            for name, stand_in in _STAND_INS.items():
                stack.enter_context(mock.patch(name, stand_in))
            stack.enter_context(self.loop.running())
            stack.callback(self.scheduler.close)
            yield

    def _live(self) -> None:
        self._begin()
        people = People(self)
        Accidents(self, self.rng.uniform(2.0, 12.0))
        for number in range(self.scenario.clients):
            Client(self, f"client-{number + 1}")
        self.noise_s += self.scheduler.now_s
        people.leave_something_undone(self.noise_s)
        self.scheduler.run(self.noise_s)
        self.noisy = False
        self.weather.clear_up()
        self.network.clear_up()
        self._settle()

    def _begin(self) -> None:
        """Mostly calm at first, until there is something to serve; at times it never is."""
        if self.rng.random() < 0.85:
            self.begin_in_calm()
        else:
            self._begin_all(within_s=2.0)
        drawn = self.rng.random()
        roughness = drawn if self.scenario.roughness is None else self.scenario.roughness
        self.noisy = True
        self.weather.fault_share = 0.1 * roughness
        self.weather.crash_share = 0.001 * roughness
        self.network.lost_share = self.network.doubled_share = 0.03 * roughness
        self.network.slow_share = 0.02 * roughness

    def begin_in_calm(self) -> None:
        """Returns when all regions serve the first release."""
        self._begin_all(within_s=0.3)
        self.scheduler.after(0.5, lambda: propose_for_all(self))
        while not self._all_serve() and self.scheduler.now_s < CALM_S:
            self.scheduler.run(self.scheduler.now_s + 0.1)

    def _begin_all(self, within_s: float) -> None:
        for region in self.regions.values():
            self.scheduler.after(self.rng.uniform(0.0, within_s), self._starter(region))
            self.scheduler.after(self.rng.uniform(0.0, within_s), self._opener(region))

    def _all_serve(self) -> bool:
        gateways = (region.gateway for region in self.regions.values())
        return all(gateway is not None and gateway.current() for gateway in gateways)

    def repeat(self, action: Callable[[], None], least_s: float, most_s: float) -> None:
        """As long as the noise lasts."""

        self.scheduler.repeat(action, lambda: self.rng.uniform(least_s, most_s), lambda: self.noisy)

    def _settle(self) -> None:
        quiet, length = 0, -1
        while self.scheduler.now_s < self.noise_s + QUIET_MAX_S:
            self.scheduler.run(self.scheduler.now_s + SLICE_S)
            unsettled = self.unsettled()
            quiet = quiet + 1 if not unsettled and length == self.objects.log_length() else 0
            length = self.objects.log_length()
            if quiet >= SETTLED_SLICES and self._switches() and self.scenario.clients:
                self._ask_in_the_quiet()
            if quiet >= SETTLED_SLICES:
                return
        self.history.failures += unsettled or ["the log goes on growing"]

    def _ask_in_the_quiet(self) -> None:
        """Now every level must be answered, everywhere."""
        self.history.quiet_from_s = self.scheduler.now_s
        last = [Client(self, f"last in {name}", only=name) for name in self.regions]
        until_s = self.scheduler.now_s + LAST_QUESTIONS_MAX_S
        while not all(client.ended for client in last) and self.scheduler.now_s < until_s:
            self.scheduler.run(self.scheduler.now_s + 0.5)

    def unsettled(self) -> list[str]:
        """What is not as it must become once nothing disturbs any more."""
        length = self.objects.log_length()
        problems = [f"{n} writes are still on their way"] if (n := self.weather.late_writes) else []
        currents = set()
        for region in self.regions.values():
            incarnation = region.coordinator
            if incarnation is None or incarnation.ended or region.gateway is None:
                problems.append(f"{region.name} has no coordinator or no gateway")
                continue
            state = incarnation.rollout.state
            if incarnation.is_busy:
                problems.append(f"{region.name} has requests to attend to")
            current = state.current(region.clock.wall_ms())
            currents.add(current)
            opened = state.open_proposal()
            if state.position != length:
                problems.append(f"{region.name} is at {state.position} of {length}")
            if opened is not None and opened.auto_commit:
                problems.append(f"release {opened.release.number} is still open in {region.name}")
            if opened is not None and self._is_at_fault(incarnation, opened.release.number):
                problems.append(f"release {opened.release.number} is open in spite of its fault")
            served = region.gateway.current()
            if current is not None and (served != current or current not in region.held):
                problems.append(f"{region.name} serves {served}, not its current {current}")
        leaders = sum(region.leads for region in self.regions.values())
        if leaders != 1:
            problems.append(f"{leaders} coordinators lead")
        if len(currents) > 1:
            problems.append(f"the regions differ on the current release: {currents}")
        return problems

    def _is_at_fault(self, incarnation: Incarnation, release: int) -> bool:
        """Whether the region's living coordinator has found a fault, and no dead one alone."""
        return any(found[1:] == (incarnation.name, release) for found in self.history.faults)

    # What passes between regions, and what is in them.

    def next_query(self) -> int:
        self._queries += 1
        return self._queries

    def preferred(self, name: str, user: str) -> str:
        """The region that serves the user before all others: mostly the one that is asked."""
        if not self._has_user_policy or not user:
            return name
        return random.Random(f"{self.seed}/{user}").choice(list(self.regions))

    def ask_region(
        self, start: str, end: str, request: Asked, take: Callable[[Outcome], object]
    ) -> None:
        """Sends a query to another region, and what comes of it back."""

        def back(outcome: Outcome) -> None:
            self.network.send(end, start, lambda: take(outcome))

        sent_s = self.scheduler.now_s

        def arrive() -> None:
            gateway = self.regions[end].gateway
            if gateway is None:
                back(Unavailable(f"{end} cannot be reached"))
            else:
                gateway.take_up(request, sent_s, back)

        if self.network.is_cut(start, end) or self.network.is_cut(end, start):
            # No connection can be made, or it is found broken.
            away = Unavailable(f"{end} cannot be reached")
            self.scheduler.after(self.rng.choice([0.5, 2.0]), lambda: take(away))
        else:
            self.network.send(start, end, arrive)

    def hits(self, region: Region, release: int) -> str:
        """What the region finds with the release: the same everywhere, but for a damaged index."""
        key = (region.name, release)
        if key not in self._hits:
            damaged = region.is_damaged and self.rng.random() < 0.5
            self._hits[key] = "damaged hits" if damaged else "the hits"
        return f"{self._hits[key]} of release {release}"

    def could_serve(self, region: Region) -> bool:
        """Whether the region's replicas hold a release that has come into force, on every clock."""
        now_ms = int(self.scheduler.now_s * 1000) - SKEW_MAX_MS
        return any(s.at_ms <= now_ms and s.release in region.held for s in self._switches())

    def nearest_to_store(self) -> Region:
        return self.regions[self.network.nearest(STORE, tuple(self.regions))[0]]

    def next_switch_s(self, within_s: float) -> float | None:
        now_s = self.scheduler.now_s
        moments_s = (switch.at_ms / 1000 for switch in self._switches()[-4:])
        return min((at_s for at_s in moments_s if now_s < at_s < now_s + within_s), default=None)

    def _switches(self) -> tuple[Switch, ...]:
        """What the coordinator knows that has read the furthest."""
        named = [r.coordinator.view for r in self.regions.values() if r.coordinator is not None]
        return max((view.switches for view in named), key=_reach, default=())

    # Lives of coordinators and gateways.

    def _starter(self, region: Region) -> Callable[[], None]:
        return lambda: self.start_coordinator(region)

    def _opener(self, region: Region) -> Callable[[], None]:
        return lambda: self._open_gateway(region)

    def start_coordinator(self, region: Region) -> None:
        region.coordinator = Incarnation(self, region)
        self._watch(region, region.coordinator)

    def _watch(self, region: Region, incarnation: Incarnation) -> None:
        """Starts the coordinator anew when it has died, unless another has the name by then."""
        if region.coordinator is not incarnation:
            return
        if incarnation.killed or incarnation.ended:
            self.scheduler.after(self.rng.uniform(0.2, 2.5), self._starter(region))
        else:
            self.scheduler.after(0.5, lambda: self._watch(region, incarnation))

    def _open_gateway(self, region: Region) -> None:
        if region.gateway is None:
            region.gateway = Gateway(self, region)

    def lose_gateway(self, region: Region, back_s: float) -> None:
        if region.gateway is not None:
            region.gateway.die()
            region.gateway = None
            self.scheduler.after(back_s, self._opener(region))


def _reach(switches: tuple[Switch, ...]) -> int:
    return switches[-1].position if switches else 0


def _drawn_count(rng: random.Random) -> int:
    least, most = rng.choices(
        [(3, 3), (4, 5), (6, 9), (10, 16), (17, REGIONS_MAX)], weights=[50, 35, 10, 4, 1]
    )[0]
    return rng.randint(least, most)


@functools.lru_cache(maxsize=4096)
def _parsed_entry(data: bytes, *, position: int):  # type: ignore[no-untyped-def]
    return parse_entry(data, position=position)


_status_from_bytes = RegionStatus.from_bytes


@functools.lru_cache(maxsize=4096)
def _parsed_status(data: bytes, *, source: str) -> RegionStatus:
    return _status_from_bytes(data, source=source)


_STAND_INS = {
    "cluster.store.numbered_log.read_each": read_together,
    "cluster.releases.region_name_watch.read_each": read_together,
    "cluster.releases.release_log.parse_entry": _parsed_entry,
    "cluster.releases.release_log.read_each": read_together,
    "cluster.releases.events.RegionStatus.from_bytes": _parsed_status,
}


def simulate(seed: int, scenario: Scenario | None = None) -> History:
    """The history of a seed: the same one each time."""
    return World(seed, scenario or Scenario()).run()
