"""Clients that ask for documents at every level, carry their tokens along, and move between
regions.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cluster.errors import InvalidArgument, RaygionError
from cluster.mutations.watermark import Watermark
from cluster.query.read_consistency import ConsistencyLevel, read_consistency_of
from tests.simulation.clocks.sim_time import Process
from tests.simulation.documents.gateways import DocumentGateway
from tests.simulation.documents.history import Answer, Served

if TYPE_CHECKING:
    from tests.simulation.documents.world import DocumentWorld

LEVELS = ("eventual", "session", "bounded", "strong")
_SHARES = (3, 4, 2, 2)
_LINK_S = (0.001, 0.02)
_REGIONS_ASKED_MAX = 3


class DocumentAsker(Process):
    """`only`: asks each level once in this region, with time enough, and ends."""

    def __init__(self, world: DocumentWorld, name: str, *, only: str | None = None) -> None:
        super().__init__(world.scheduler, name)
        self._world = world
        self._rng = random.Random(f"{world.seed}/{name}")
        self._only = only
        self._home = only or self._rng.choice(list(world.regions))
        self._session = ""
        self._seen = Watermark()
        """What the answers of the session were really made by."""
        self.refused: list[str] = []

    def body(self) -> None:
        if self._only is not None:
            for level in LEVELS:
                self._ask(level, 5.0)
            return
        while self._world.noisy:
            self.sleep(self._rng.uniform(0.05, 1.0))
            if self._rng.random() < 0.4:
                self._home = self._rng.choice(list(self._world.regions))
            self._ask(self._rng.choices(LEVELS, _SHARES)[0], self._rng.choice([0.5, 2.0, 4.0]))

    def _ask(self, level: str, timeout_s: float) -> None:
        asked_s, bound_ms = self.scheduler.now_s, None
        if level == "bounded":
            bound_ms = 3000 if self._only else self._rng.choice([300, 1000, 3000])
        session = None if level == "eventual" else self._session or None
        if level == "session" and session is None:
            level = "eventual"
        seen = Watermark() if session is None else self._seen
        consistency = read_consistency_of(level, session, bound_ms)
        served, error = None, ""
        for gateway in self._gateways():
            self.sleep(self._rng.uniform(*_LINK_S))
            try:
                served = gateway.answer(consistency, self, timeout_s / 2)
                break
            except InvalidArgument as refusal:
                error = f"InvalidArgument: {refusal}"
                break
            except RaygionError as refusal:
                error = error or f"{type(refusal).__name__}: {refusal}"
        if served is not None:
            self._take(served, seen if session is not None else None)
        else:
            self.refused.append(f"{level}: {error}")
        self._world.history.answers.append(
            Answer(
                asked_s=asked_s,
                level=ConsistencyLevel(level),
                max_staleness_ms=bound_ms,
                seen=seen.as_dict(),
                served=served,
                error="" if served is not None else error,
            )
        )

    def _take(self, served: Served, before: Watermark | None) -> None:
        """An answer without the session's token begins the session anew."""
        watermark = Watermark.of(served.watermark)
        self._seen = watermark if before is None else before.joined(watermark)
        self._session = served.session

    def _gateways(self) -> Iterator[DocumentGateway]:
        """That of the region, and then those of others."""
        others = [name for name in self._world.regions if name != self._home]
        self._rng.shuffle(others)
        for name in [self._home, *others][:_REGIONS_ASKED_MAX]:
            gateway = self._world.regions[name].gateway
            if gateway is not None and not gateway.killed:
                yield gateway
