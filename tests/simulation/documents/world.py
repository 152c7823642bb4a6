"""Several regions that write the same documents, from one seed, in virtual time.

Each region has a writer of its log and a reader of all logs, both by the code that production runs.
Clients write, ask again after doubt, and look for what they wrote in any region. Writers and
readers die and come back, writers at times while a predecessor still lives or dozes; pushes between
regions are lost, doubled and overtaken; ways are cut, clocks differ, objects and spans rot, logs
are trimmed. After the noise all must come to the same documents.
"""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest import mock

from cluster.mutations.batch import Batch, read_batch
from cluster.mutations.conflicts import ConflictPolicy
from tests.simulation.clocks.sim_time import Scheduler
from tests.simulation.documents.accidents import DocumentAccidents
from tests.simulation.documents.askers import DocumentAsker
from tests.simulation.documents.clients import DocumentClient
from tests.simulation.documents.gateways import DocumentGateway
from tests.simulation.documents.history import DocumentHistory
from tests.simulation.documents.processes import (
    CORPUS,
    Base,
    DocumentRegion,
    ReaderProcess,
    WriterProcess,
)
from tests.simulation.world.faulty_store import Objects, Weather, read_together
from tests.simulation.world.network import STORE, Network, cities, placed
from tests.simulation.world.regions import RegionClock

LOGS = f"logs/{CORPUS}/"
LAST_WRITER = ConflictPolicy.LAST_WRITER
BEGIN_S = 1.0
QUIET_MAX_S = 60.0
SLICE_S = 1.0
ASKERS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentScenario:
    """What a simulation is like, apart from its seed."""

    regions: int | None = None
    """How many; None draws 2 to 6, mostly few."""
    noise_s: float = 5.0
    policy: ConflictPolicy | None = None
    """None draws that of the last writer, or version vectors."""
    clients: int | None = None
    """Of each region; None draws 1 or 2."""
    roughness: float | None = None
    """From 0, where the store and the network never fail, to 1; None draws it."""


FAIR = DocumentScenario(regions=2, roughness=0.0, noise_s=15.0, clients=3)
"""Where the store hardly fails, logs grow, and are trimmed while writers doze."""


class DocumentWorld:
    """The regions, the store, the network and the clients of one seed."""

    def __init__(self, seed: int, scenario: DocumentScenario) -> None:
        self.seed = seed
        self.rng = random.Random(f"{seed}/documents")
        self.scheduler = Scheduler()
        self.objects = Objects(is_recorded=_is_object)
        self.noisy = True
        self.noise_s = BEGIN_S + scenario.noise_s
        self.weather = Weather()
        count = scenario.regions or self.rng.choice([2, 3, 3, 3, 3, 3, 4, 6])
        near = self.rng.random() < 0.5
        places = dict(placed(self.rng, count, cities()[:1] if near else cities()))
        self.network = Network(
            self.scheduler,
            random.Random(f"{seed}/document network"),
            places | {STORE: self.rng.choice(list(places.values()))},
        )
        self.regions = {n: DocumentRegion(n, RegionClock(self.scheduler)) for n in places}
        self.bases: list[Base] = []
        """Those that are kept, the newest last."""
        drawn_policy = self.rng.choice([LAST_WRITER, LAST_WRITER, ConflictPolicy.VERSION_VECTOR])
        self.policy = scenario.policy or drawn_policy
        self.history = DocumentHistory(
            regions=tuple(places),
            keeps_siblings=self.policy.keeps_siblings,
            writes=self.objects.writes,
        )
        self._clients = scenario.clients or self.rng.choice([1, 1, 2])
        drawn = self.rng.random()
        self._roughness = drawn if scenario.roughness is None else scenario.roughness

    def run(self) -> DocumentHistory:
        with self._playing():
            self._live()
        return self.history

    def start_writer(self, region: DocumentRegion) -> None:
        region.writers = [w for w in region.writers if not w.ended]
        region.writers.append(WriterProcess(self, region))

    def start_reader(self, region: DocumentRegion) -> None:
        region.reader = ReaderProcess(self, region)

    def start_gateway(self, region: DocumentRegion) -> None:
        region.gateway = DocumentGateway(self, region)

    def repeat(self, action: Callable[[], None], least_s: float, most_s: float) -> None:
        """As long as the noise lasts."""
        self.scheduler.repeat(action, lambda: self.rng.uniform(least_s, most_s), lambda: self.noisy)

    @contextlib.contextmanager
    def _playing(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for name, stand_in in _STAND_INS.items():
                stack.enter_context(mock.patch(name, stand_in))
            stack.callback(self.scheduler.close)
            yield

    def _live(self) -> None:
        # Late enough for all clocks to be after zero.
        self.scheduler.run(BEGIN_S)
        for region in self.regions.values():
            region.clock.set_anew(self.rng)
            self.start_writer(region)
            self.start_reader(region)
            self.start_gateway(region)
        self.weather.fault_share = 0.1 * self._roughness
        self.weather.crash_share = 0.002 * self._roughness
        self.network.lost_share = self.network.doubled_share = 0.1 * self._roughness
        self.network.slow_share = 0.02 * self._roughness
        DocumentAccidents(self)
        # The dead are replaced, in the quiet, too.
        self.scheduler.repeat(self._replace_the_dead, lambda: 0.5, lambda: True)
        clients = [
            DocumentClient(self, f"client {number} of {name}", name)
            for name in self.regions
            for number in range(self._clients)
        ]
        for number in range(ASKERS):
            DocumentAsker(self, f"asker {number}")
        self.scheduler.run(self.noise_s)
        self.noisy = False
        self.weather.clear_up()
        self.network.clear_up()
        self._settle(clients)

    def _replace_the_dead(self) -> None:
        for region in self.regions.values():
            if not region.writers or region.writers[-1].ended:
                self.start_writer(region)
            if region.reader is None or region.reader.ended:
                self.start_reader(region)
            if region.gateway is None or region.gateway.killed:
                self.start_gateway(region)

    def _settle(self, clients: list[DocumentClient]) -> None:
        """Until all clients have been answered, one write of each region more, and all agree."""
        while not all(client.ended for client in clients) and not self._is_over():
            self.scheduler.run(self.scheduler.now_s + SLICE_S)
        if self._is_over():
            self.history.failures += [*self.unsettled(), "clients still wait"]
            return
        last = [_LastWrite(self, f"last of {name}", name) for name in self.regions]
        # Now every level must be answered, everywhere.
        askers = [DocumentAsker(self, f"last asker of {name}", only=name) for name in self.regions]
        while (
            not all(client.ended for client in (*last, *askers)) or self.unsettled()
        ) and not self._is_over():
            self.scheduler.run(self.scheduler.now_s + SLICE_S)
        self.history.failures += [
            f"{asker.name} is not answered {refusal}"
            for asker in askers
            for refusal in asker.refused
        ]
        self.history.failures += self.unsettled()
        self.history.failures += [
            f"the last write of {client.name} has come to {client.outcome}"
            for client in last
            if client.outcome != "written"
        ]

    def _is_over(self) -> bool:
        return self.scheduler.now_s > self.noise_s + QUIET_MAX_S

    def unsettled(self) -> list[str]:
        """What is not as it must become once nothing disturbs any more."""
        problems = [f"{n} writes are on their way"] if (n := self.weather.late_writes) else []
        ends = {name: self.log_end(name) for name in self.regions}
        found = set()
        for region in self.regions.values():
            if region.reader is None or region.reader.ended:
                problems.append(f"{region.name} has no reader")
                continue
            fold = region.reader.fold
            at = {name: fold.position(name) for name in ends}
            if at != ends:
                problems.append(f"{region.name} has come to {at} of {ends}")
            found.add(fold.digest)
            problems += [
                f"{writer.name} has not said what became of {writer.num_waiting} writes"
                for writer in region.writers
                if not writer.ended and writer.num_waiting
            ]
        if not problems and len(found) != 1:
            problems.append("regions that have read all differ on the documents")
        return problems

    def log_end(self, region: str) -> int:
        names = self.objects.folders.get(f"{LOGS}{region}", {})
        numbers = (name.removesuffix(".batch") for name in names)
        return max((int(number) for number in numbers if number.isdigit()), default=0)


class _LastWrite(DocumentClient):
    """Writes once, when nothing disturbs any more: that must work."""

    outcome = "unknown"

    def body(self) -> None:
        self.outcome = self.write(is_plain=True).outcome


def _is_object(path: str) -> bool:
    return path.startswith(LOGS) and path.endswith(".batch") and path.count("/") == 3


@functools.lru_cache(maxsize=4096)
def _parsed_batch(data: bytes, **expected: str | int) -> Batch:
    return read_batch(data, **expected)  # type: ignore[arg-type]


_STAND_INS = {
    "cluster.mutations.store_log.read_batch": _parsed_batch,
    "cluster.mutations.store_log.read_each": read_together,
    "cluster.store.numbered_log.read_each": read_together,
}


def simulate_documents(seed: int, scenario: DocumentScenario | None = None) -> DocumentHistory:
    """The history of a seed: the same one each time."""
    return DocumentWorld(seed, scenario or DocumentScenario()).run()
