"""The loads of the processes that answer a region's requests, by their reports."""

from __future__ import annotations

import threading
from collections.abc import Callable

from cluster.clock import Clock

_FRESH_S = 5.0
"""Age beyond which a report says nothing: the process may be gone."""


class ProcessLoads:
    """The load of a region: that of its busiest process. Thread-safe."""

    def __init__(self, clock: Clock, of_replicas: Callable[[], float]) -> None:
        """`of_replicas`: how busy the shard replicas were lately, in [0, 1]. Gateways may search
        without them, and replicas may be searched by few gateways, so one says nothing of the
        other.
        """
        self._clock = clock
        self._of_replicas = of_replicas
        self._reports: dict[str, tuple[float, float]] = {}
        """Time of each process's last report, and the process's share of a core."""
        self._lock = threading.Lock()

    def report(self, process: str, busy_share: float) -> None:
        """A process, by a name of its own, was so busy lately: in [0, 1]."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            self._reports[process] = now_s, busy_share
            self._reports = {k: v for k, v in self._reports.items() if now_s - v[0] <= _FRESH_S}

    def load(self) -> float:
        """The load, in [0, 1]."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            shares = [share for at_s, share in self._reports.values() if now_s - at_s <= _FRESH_S]
        return max([self._of_replicas(), *shares])
