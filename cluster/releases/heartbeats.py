"""The regions' last reports on themselves, and for how long each region has been silent.

`region_name_watch.read_heartbeats` reads the reports from the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.releases.events import HeartbeatsRead, RegionStatus

_CLOCKS_APART_S = 60.0
"""Largest difference between two clocks."""


@dataclass(slots=True)
class Heartbeats:
    """The last heartbeat of each region. Clocks of others play no part in how long a region has
    been silent: it is counted from the reading that found a new heartbeat.
    """

    statuses: Mapping[str, RegionStatus] = field(default_factory=dict)
    _heard_s: dict[str, float] = field(default_factory=dict)
    """Time of each heartbeat's last change, on this reader's monotonic clock."""
    _looked_s: float = 0.0

    def take(self, read: HeartbeatsRead, now_ms: int) -> None:
        for region, status in read.statuses.items():
            if region not in self.statuses:
                # One that is long past by any clock needs no second look.
                age_s = (now_ms - status.at_ms) / 1000
                self._heard_s[region] = read.at_s - (age_s if age_s > _CLOCKS_APART_S else 0.0)
            elif status != self.statuses[region]:
                self._heard_s[region] = read.at_s
        self.statuses, self._looked_s = read.statuses, read.at_s

    def silent_s(self, region: str) -> float:
        """Infinite for a region that has told nothing."""
        if region not in self.statuses:
            return float("inf")
        return self._looked_s - self._heard_s[region]
