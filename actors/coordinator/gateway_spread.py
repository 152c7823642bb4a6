"""The machines on which the gateways run, by their reports, and the gateway that is to move.

Ray Serve starts and ends gateways, and moves none by itself. A gateway that is to move reports to
Serve that it is not well: Serve then lets it finish what it has, and starts another one on the node
with the fewest (`deployments.serve.placement`).
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cluster.clock import Clock
from cluster.shards.placement import one_to_move

_FRESH_S = 5.0
"""Age beyond which a report says nothing: the gateway may be gone."""
_REST_S = (60.0, 3600.0)
"""Time from one move to the next, in which the next gateway can start; it grows as long as moving
does not help.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOrder:
    """The instruction to a gateway."""

    machines: int
    """Number of the region's machines that are alive."""
    moves: bool
    """True when the gateway is to end, so that another one starts elsewhere."""


class GatewaySpread:
    """Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._reports: dict[str, tuple[float, str]] = {}
        """Time of each process's last report, and the node of the process."""
        self._machines = 1
        self._moves: str | None = None
        self._rests_until_s = 0.0
        self._rest_s = _REST_S[0]
        self._lock = threading.Lock()

    def report(self, process: str, node: str) -> GatewayOrder:
        """A gateway, by a name of its own, runs on that node."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            self._reports[process] = now_s, node
            return GatewayOrder(machines=self._machines, moves=process == self._moves)

    def placements(self) -> Mapping[str, str]:
        """The node of each gateway, by its process."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            self._reports = {k: v for k, v in self._reports.items() if now_s - v[0] <= _FRESH_S}
            return {process: node for process, (_, node) in self._reports.items()}

    def look(self, nodes: Collection[str], settled: Collection[str]) -> None:
        """Decides whether one is to move. `nodes`: those that are alive; `settled`: those of them
        that one may move to.
        """
        placements, now_s = self.placements(), self._clock.monotonic_s()
        with self._lock:
            self._machines = max(1, len(nodes))
            if self._moves in placements or now_s < self._rests_until_s:
                return
            if self._moves is not None:
                self._moves = None
                self._rests_until_s = now_s + self._rest_s
                self._rest_s = min(2 * self._rest_s, _REST_S[1])
                return
            self._moves = one_to_move(placements, settled)
            if self._moves is None:
                self._rest_s = _REST_S[0]
