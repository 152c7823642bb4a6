"""The share of a core that this process uses."""

from __future__ import annotations

from collections.abc import Callable

from cluster.clock import SYSTEM_CLOCK


class BusyShare:
    """Measures the share of one core that this process used between two looks."""

    def __init__(
        self,
        *,
        now_s: Callable[[], float] = SYSTEM_CLOCK.monotonic_s,
        cpu_s: Callable[[], float] = SYSTEM_CLOCK.cpu_s,
    ) -> None:
        self._now_s, self._cpu_s = now_s, cpu_s
        self._looked_s, self._used_s = now_s(), cpu_s()

    def look(self) -> float:
        """The busy share in [0, 1]; several threads at once count for no more than one core."""
        now_s, used_s = self._now_s(), self._cpu_s()
        share = (used_s - self._used_s) / max(now_s - self._looked_s, 1e-3)
        self._looked_s, self._used_s = now_s, used_s
        return min(1.0, max(0.0, share))
