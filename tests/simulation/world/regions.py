"""A region: what its processes share, and what lives on when they die."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cluster.generation.prompt import PromptTemplate
from cluster.serving.view import ReleaseView
from tests.simulation.clocks.sim_time import Scheduler

if TYPE_CHECKING:
    from tests.simulation.world.coordinators import Incarnation
    from tests.simulation.world.gateways import Gateway

STORE_ID = "the-store"
SNAPSHOT_ENTRIES = 5
"""Logs are short here, so snapshots are."""
SKEW_MAX_MS = 100
"""How far two regions' clocks may be apart; each is off by half of it at most."""


@functools.cache
def release_view(number: int) -> ReleaseView:
    return ReleaseView(
        number=number, corpora={}, embedders=(), generator=None, prompt=PromptTemplate()
    )


@dataclass(slots=True)
class RegionClock:
    """Off by a bounded time, and set anew now and then, as clocks are that follow a time server."""

    scheduler: Scheduler
    off_ms: int = 0

    def monotonic_s(self) -> float:
        return self.scheduler.now_s

    def wall_ms(self) -> int:
        return int(self.scheduler.now_s * 1000) + self.off_ms

    def set_anew(self, rng: random.Random) -> None:
        half = SKEW_MAX_MS // 2
        self.off_ms = rng.choice([-half, half, rng.randint(-half, half)])


@dataclass(slots=True, eq=False)
class Region:
    name: str
    clock: RegionClock
    is_damaged: bool = False
    """Whether some of its indexes find something else than those of all other regions."""
    lives: int = 0
    coordinator: Incarnation | None = None
    """The one that has the name; a predecessor may still live."""
    gateway: Gateway | None = None
    held: set[int] = field(default_factory=set)
    """The releases that this region's replicas have loaded: coordinators come and go, they stay."""

    @property
    def leads(self) -> bool:
        named = self.coordinator
        return named is not None and not named.killed and named.rollout.leads

    def nudge(self) -> None:
        """Somebody says that the log may have grown."""
        if self.coordinator is not None:
            self.coordinator.nudge()

    def published(self, publisher: Incarnation) -> None:
        if publisher is self.coordinator and self.gateway is not None:
            self.gateway.views.hear_of_view(publisher)
