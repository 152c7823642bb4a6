"""Watches whether a region's name is free, or another Ray cluster runs under it already.

    no heartbeat, or this cluster's own        -> FREE
    another cluster's, seen for the first time -> UNDECIDED
    it changes between two looks               -> TAKEN
    it stands still for `STANDSTILL_S`         -> FREE: its writer is gone

Judged by the reader's monotonic clock alone, so that clocks that differ make nobody look dead. A
heartbeat that cannot be read counts as none: a living region writes it anew within a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cluster.clock import SYSTEM_CLOCK, Clock
from cluster.errors import Conflict, Corrupt, NotFound
from cluster.logs.events import EventLog
from cluster.releases.events import RegionStatus, heartbeat_path
from cluster.store.numbered_log import read_each
from cluster.store.object_store import ObjectStore

log = EventLog(__name__)
STANDSTILL_S = 3.0
"""Three times the time between two heartbeats."""
_LOOK_S = 0.25


class NameState(StrEnum):
    FREE = "free"
    UNDECIDED = "undecided"
    TAKEN = "taken"


@dataclass(slots=True)
class RegionNameWatch:
    """Judges by successive looks at one region's heartbeat whether its name is free."""

    cluster_id: str
    _last: RegionStatus | None = None
    _since_s: float = 0.0
    _alive: bool = False
    """True once the heartbeat was seen to change."""

    def look(self, heartbeat: RegionStatus | None, now_s: float) -> NameState:
        """`heartbeat`: the region's, as in the store; `now_s`: the reader's monotonic clock."""
        if heartbeat is None or heartbeat.cluster_id == self.cluster_id:
            self._last = None
            return NameState.FREE
        if heartbeat != self._last:
            self._alive = self._last is not None
            self._last, self._since_s = heartbeat, now_s
        elif now_s - self._since_s >= STANDSTILL_S:
            return NameState.FREE
        return NameState.TAKEN if self._alive else NameState.UNDECIDED


def wait_for_free_name(
    store: ObjectStore,
    region: str,
    cluster_id: str,
    *,
    clock: Clock = SYSTEM_CLOCK,
    sleep: Callable[[float], None] = SYSTEM_CLOCK.sleep,
) -> None:
    """Returns once the region's name is free for the cluster: at once, or after the heartbeat that
    another cluster has left was seen to stand still. Writes nothing. Raises Conflict when another
    cluster runs under the name, Unavailable while the store does not answer.
    """
    watch = RegionNameWatch(cluster_id)
    while True:
        heartbeat = read_heartbeats(store, [region]).get(region)
        match watch.look(heartbeat, clock.monotonic_s()):
            case NameState.FREE:
                return
            case NameState.TAKEN:
                raise name_taken(region, heartbeat)
        sleep(_LOOK_S)


def read_heartbeats(store: ObjectStore, regions: Sequence[str]) -> dict[str, RegionStatus]:
    """The regions' last heartbeats. Regions that never wrote one, or whose heartbeat cannot be
    read, are left out: one of them must not stop all. Raises the errors of the store.
    """

    def read(region: str) -> RegionStatus | None:
        path = heartbeat_path(region)
        try:
            return RegionStatus.from_bytes(store.get(path), source=path)
        except NotFound:
            return None
        except Corrupt as error:
            log.warning(
                "region.tells_nothing",
                "region {other} counts as one that tells nothing: {error}",
                other=region,
                error=error,
            )
            return None

    found = zip(regions, read_each(read, regions), strict=True)
    return {region: status for region, status in found if status is not None}


def name_taken(region: str, heartbeat: RegionStatus | None) -> Conflict:
    """The error for a region whose name another cluster uses."""
    other = "" if heartbeat is None else heartbeat.cluster_id
    return Conflict(
        f"region {region!r} runs already, in Ray cluster {other or 'unknown'}: "
        "end it there, or give this one another name"
    )
