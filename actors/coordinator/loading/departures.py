"""The rule for unloading releases, so that none is unloaded under a request.

gateway, front: ReleaseUses --- those of its view and of its requests, with each pulse ---+
                                                                                          v
coordinator: a release that no view names any more ---> Departures: unload it once nobody uses it
"""

from __future__ import annotations

import threading
from collections.abc import Collection

from cluster.clock import Clock
from cluster.query.terms import TIMEOUT_S_MAX

_HEARD_AFTER_S = 5.0
"""Processes tell twice a second; so all have told since then, to a coordinator that has just
started, too."""
_SILENT_S = 30.0
"""A process that has told nothing for so long is gone, or its region's coordinator is out of its
reach: then what it said last counts no more."""


class Departures:
    """Releases that are to be unloaded, and when that may be: once no process uses them, and at
    last when the longest request is over. Thread-safe.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begun_s = clock.monotonic_s()
        self._reports: dict[str, tuple[float, frozenset[int]]] = {}
        """Time of each process's last report, and the releases that the process used."""
        self._since_s: dict[int, float] = {}
        """When each release began to depart."""
        self._lock = threading.Lock()

    def report(self, process: str, releases: frozenset[int]) -> None:
        """A process, by a name of its own, may begin requests on these releases or has some."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            self._reports[process] = now_s, releases
            self._reports = {k: v for k, v in self._reports.items() if now_s - v[0] <= _SILENT_S}

    def begin(self, release: int) -> None:
        """No new view names the release; again for one that departs already changes nothing."""
        with self._lock:
            self._since_s.setdefault(release, self._clock.monotonic_s())

    def end(self, release: int) -> None:
        """The release is unloaded, or is wanted again."""
        with self._lock:
            self._since_s.pop(release, None)

    def only_uses(self, releases: Collection[int]) -> bool:
        """True when every process has had the time to tell, and none uses any other release."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            return now_s - self._begun_s > _SILENT_S and self._used(now_s) <= set(releases)

    def due(self) -> list[int]:
        """The releases that may be unloaded now, the one that has departed longest first."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            used = self._used(now_s)
            return [
                release
                for release, since_s in self._since_s.items()
                if now_s - since_s >= (TIMEOUT_S_MAX if release in used else _HEARD_AFTER_S)
            ]

    def _used(self, now_s: float) -> set[int]:
        return {
            release
            for reported_s, releases in self._reports.values()
            if now_s - reported_s <= _SILENT_S
            for release in releases
        }
