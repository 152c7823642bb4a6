"""What goes wrong with documents during the noise: deaths, predecessors that live on, cuts, clocks
set anew, objects and spans that rot, and logs that are trimmed while others are away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.errors import RaygionError
from cluster.mutations.hybrid_clock import HybridClock
from cluster.mutations.region_writer import RegionWriter
from cluster.mutations.trimming import trimmable
from tests.simulation.documents.processes import (
    CORPUS,
    Base,
    DocumentRegion,
    StoreProcess,
)
from tests.simulation.world.network import STORE
from tests.simulation.world.regions import SKEW_MAX_MS

if TYPE_CHECKING:
    from tests.simulation.documents.world import DocumentWorld

BASES_KEPT = 1


class DocumentAccidents:
    def __init__(self, world: DocumentWorld) -> None:
        self._world = world
        self._rng = world.rng
        world.repeat(self._lose_a_writer, 0.5, 6.0)
        world.repeat(self._lose_a_reader, 1.0, 8.0)
        world.repeat(self._lose_a_gateway, 2.0, 12.0)
        world.repeat(self._cut_a_way, 2.0, 12.0)
        world.repeat(self._set_a_clock, 2.0, 10.0)
        world.repeat(self._let_something_rot, 1.0, 8.0)
        world.repeat(self._build_a_base, 1.5, 6.0)
        world.repeat(self._bar_a_writer, 2.0, 10.0)

    def _note(self, what: str) -> None:
        self._world.history.accidents.append((self._world.scheduler.now_s, what))

    def _drawn_region(self) -> DocumentRegion:
        return self._rng.choice(list(self._world.regions.values()))

    def _lose_a_writer(self) -> None:
        region = self._drawn_region()
        writer = region.writers[-1]
        drawn = self._rng.random()
        if drawn < 0.5:
            self._note(f"{writer.name} dies")
            writer.kill()
            return
        # Taken for dead, it goes on beside its successor, at once or when it wakes.
        if drawn < 0.8:
            writer.dozes_until_s = self._world.scheduler.now_s + self._rng.uniform(1.0, 7.0)
        self._note(f"{writer.name} is taken for dead and goes on")
        self._world.start_writer(region)
        self._world.scheduler.after(self._rng.uniform(3.0, 15.0), writer.kill)

    def _bar_a_writer(self) -> None:
        name, barred = self._drawn_region().writers[-1].name, self._world.weather.barred
        barred.add(name)
        self._note(f"writes of {name} hardly get through")
        self._world.scheduler.after(self._rng.uniform(1.0, 5.0), lambda: barred.discard(name))

    def _lose_a_reader(self) -> None:
        reader = self._drawn_region().reader
        if reader is not None:
            self._note(f"{reader.name} dies")
            reader.kill()

    def _lose_a_gateway(self) -> None:
        gateway = self._drawn_region().gateway
        if gateway is not None:
            self._note(f"{gateway.name} dies")
            gateway.kill()

    def _cut_a_way(self) -> None:
        name, other = self._drawn_region().name, self._drawn_region().name
        back_s = self._rng.uniform(0.5, 5.0)
        self._world.network.cut(name, STORE if self._rng.random() < 0.6 else other, back_s)
        self._note(f"ways of {name} are cut for {back_s:.1f} s")

    def _set_a_clock(self) -> None:
        region = self._drawn_region()
        region.clock.set_anew(self._rng)
        self._note(f"the clock of {region.name} is {region.clock.off_ms} ms off")

    def _let_something_rot(self) -> None:
        """An object of a log for a while, or a span for good."""
        content = self._world.objects.content
        is_span = self._rng.random() < 0.5
        paths = [p for p in content if p.endswith(".batch") and ("/spans/" in p) is is_span]
        if not paths:
            return
        path, rotten = self._rng.choice(paths), b"rotten"
        whole = content[path]
        if whole == rotten:
            return
        content[path] = rotten
        self._note(f"{path} rots")
        if not is_span:
            left_s = max(0.0, self._world.noise_s - self._world.scheduler.now_s)
            back_s = min(left_s, self._rng.uniform(0.5, 4.0))
            self._world.scheduler.after(back_s, lambda: self._mend(path, whole))

    def _mend(self, path: str, whole: bytes) -> None:
        if path in self._world.objects.content:
            self._world.objects.content[path] = whole

    def _build_a_base(self) -> None:
        _Builder(self._world, self._drawn_region())


class _Builder(StoreProcess):
    """Makes the next base of what the logs have, and trims them."""

    def __init__(self, world: DocumentWorld, region: DocumentRegion) -> None:
        region.lives += 1
        super().__init__(world, region, f"{region.name}/builder-{region.lives}")

    def body(self) -> None:
        try:
            self._build()
            self._trim()
        except RaygionError as error:
            self.world.history.accidents.append((self.scheduler.now_s, f"{self.name}: {error}"))

    def _build(self) -> None:
        clock = HybridClock(self.region.name, self.region.clock, skew_max_ms=SKEW_MAX_MS)
        builder = RegionWriter(CORPUS, self.region.name, policy=self.world.policy, clock=clock)
        bases = self.world.bases
        if bases:
            bases[-1].put_into(builder)
        for batch in self.log.read_after(builder.fold.watermark).batches:
            builder.take_in(batch)
        if not bases or bases[-1].watermark <= builder.fold.watermark:
            bases.append(Base(builder))
            del bases[:-BASES_KEPT]

    def _trim(self) -> None:
        readers = [region.reader for region in self.world.regions.values()]
        applied = [reader.fold.watermark for reader in readers if reader is not None]
        floor = trimmable([base.watermark for base in self.world.bases], applied)
        for region in floor:
            self.log.trim(region, floor[region])
