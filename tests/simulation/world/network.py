"""The network between regions and their store: measured delays, losses, duplicates, cuts."""

from __future__ import annotations

import csv
import functools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.simulation.clocks.sim_time import Scheduler

ROUND_TRIPS = Path(__file__).resolve().parents[2] / "data" / "latency" / "region_rtt_ms.csv"
STORE = "store"
NEARBY_MS = 1.0
"""A round trip inside one city."""


@functools.cache
def round_trips_ms() -> Mapping[tuple[str, str], float]:
    """By city and city, as measured."""
    with ROUND_TRIPS.open(newline="") as file:
        rows = list(csv.reader(file))
    cities = rows[0][1:]
    return {
        (row[0], city): max(NEARBY_MS, float(value))
        for row in rows[1:]
        for city, value in zip(cities, row[1:], strict=True)
    }


def cities() -> list[str]:
    return sorted({start for start, _ in round_trips_ms()})


def placed(rng: random.Random, count: int, known: list[str]) -> list[tuple[str, str]]:
    """Names of regions and their cities; several regions share one where there are too few."""
    chosen = [rng.sample(known, len(known)) for _ in range(-(-count // len(known)))]
    placed = []
    for turn, shuffled in enumerate(chosen, 1):
        for city in shuffled:
            name = city.lower().replace(" ", "-")
            placed.append((name if turn == 1 else f"{name}-{turn}", city))
    return placed[:count]


@dataclass(slots=True)
class Network:
    """Where everybody is, and which ways are open. Names of regions, and `STORE`."""

    scheduler: Scheduler
    rng: random.Random
    place: Mapping[str, str]
    """City of each name."""
    lost_share: float = 0.0
    doubled_share: float = 0.0
    slow_share: float = 0.0
    cuts: set[tuple[str, str]] = field(default_factory=set)
    """Ways on which nothing gets through, as (from, to)."""
    same_rtt_ms: float | None = None
    """One round-trip time for all ways, instead of the measured ones."""

    def delay_s(self, start: str, end: str) -> float:
        """One way, this time: half of the round trip and some jitter, at times very long."""
        rtt_ms = self.same_rtt_ms or round_trips_ms()[self.place[start], self.place[end]]
        delay_s = rtt_ms / 2000 * (1.0 + 0.3 * self.rng.random()) + 0.002 * self.rng.random()
        if self.slow_share and self.rng.random() < self.slow_share:
            delay_s += self.rng.uniform(0.5, 6.0)
        return delay_s

    def is_cut(self, start: str, end: str) -> bool:
        return (start, end) in self.cuts

    def send(self, start: str, end: str, arrive: Callable[[], None]) -> None:
        """Has the message arrive after its delay: once, twice or never; others may overtake it."""
        if self.is_cut(start, end) or (self.lost_share and self.rng.random() < self.lost_share):
            return
        self.scheduler.after(self.delay_s(start, end), arrive)
        if self.doubled_share and self.rng.random() < self.doubled_share:
            self.scheduler.after(self.delay_s(start, end) * 2, arrive)

    def nearest(self, name: str, others: tuple[str, ...]) -> tuple[str, ...]:
        """All but itself, the nearest first."""
        rtts, here = round_trips_ms(), self.place[name]
        away = sorted((rtts[here, self.place[other]], other) for other in others)
        return tuple(other for _, other in away if other != name)

    def cut(self, name: str, other: str, back_s: float) -> list[tuple[str, str]]:
        """Cuts one way or both between them, for a while; which ones it returns."""
        ways = [(name, other), (other, name)]
        chosen = self.rng.choice([ways, ways, ways[:1], ways[1:]])
        self.cuts.update(chosen)
        self.scheduler.after(back_s, lambda: self.cuts.difference_update(chosen))
        return chosen

    def clear_up(self) -> None:
        self.lost_share = self.doubled_share = self.slow_share = 0.0
        self.cuts.clear()
