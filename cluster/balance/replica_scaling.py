"""Decides how many replicas each shard of a corpus should have, by the load that they report.

overloaded at most looks of the last `up_after_s`  -> one more, up to the most
would still be at ease with one fewer, for `down_after_s`  -> one fewer, down to the least
after either: nothing for `settle_s`, since what was just changed has to show first
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLoad:
    """The work of one replica since it was last asked."""

    busy_share: float
    """Share of the time that is spent on searches, in [0, 1]."""
    waiting: int
    """Searches that wait for their turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingSettings:
    """The defaults add a replica within some ten seconds, and take one away after minutes."""

    busy_share_high: float = 0.7
    waiting_high: float = 4.0
    """Waiting searches for each replica, on average."""
    busy_share_low: float = 0.4
    """Load that the remaining replicas may have after one has gone."""
    up_after_s: float = 6.0
    down_after_s: float = 120.0
    settle_s: float = 15.0


DEFAULT_SCALING = ScalingSettings()


class ReplicaScaler:
    """The policy for one corpus. Ask it at every look at the replicas; the caller brings the time.

    Guarantees: the answer lies within the bounds and moves by one at a time, except into bounds
    that have changed.
    """

    def __init__(self, settings: ScalingSettings = DEFAULT_SCALING) -> None:
        self._settings = settings
        self._looks: deque[tuple[float, bool]] = deque()
        """For each look: its time, and whether replicas were overloaded. The oldest look is at
        least `up_after_s` ago.
        """
        self._low_since_s: float | None = None
        self._settled_s = float("-inf")

    def wanted(
        self, count: int, loads: Sequence[ReplicaLoad], *, least: int, most: int, now_s: float
    ) -> int:
        """The number of replicas a shard that there should be, given `count` now."""
        bounded = min(max(count, least), most)
        if bounded != count:
            return self._changed(bounded, now_s)
        if not loads or now_s < self._settled_s:
            return count
        settings = self._settings
        busy = sum(load.busy_share for load in loads) / len(loads)
        waiting = sum(load.waiting for load in loads) / len(loads)
        is_high = busy > settings.busy_share_high or waiting > settings.waiting_high
        is_low = count > 1 and busy * count / (count - 1) < settings.busy_share_low and waiting < 1
        is_overloaded = self._is_overloaded(is_high, now_s)
        self._low_since_s = _since(self._low_since_s, is_low, now_s)
        if count < most and is_overloaded:
            return self._changed(count + 1, now_s)
        if count > least and _lasted(self._low_since_s, settings.down_after_s, now_s):
            return self._changed(count - 1, now_s)
        return count

    def _is_overloaded(self, is_high: bool, now_s: float) -> bool:
        """True when replicas were overloaded at most looks: a single look may fall below the bound
        even under a steady load.
        """
        looks, since_s = self._looks, now_s - self._settings.up_after_s
        looks.append((now_s, is_high))
        while len(looks) > 1 and looks[1][0] <= since_s:
            looks.popleft()
        return looks[0][0] <= since_s and 2 * sum(is_high for _, is_high in looks) > len(looks)

    def _changed(self, count: int, now_s: float) -> int:
        self._looks.clear()
        self._low_since_s = None
        self._settled_s = now_s + self._settings.settle_s
        return count


def _since(since_s: float | None, holds: bool, now_s: float) -> float | None:
    if not holds:
        return None
    return now_s if since_s is None else since_s


def _lasted(since_s: float | None, duration_s: float, now_s: float) -> bool:
    return since_s is not None and now_s - since_s >= duration_s
