"""How busy this process is."""

from __future__ import annotations

import time


class BusyShare:
    """How much of one core this process used, between one look and the next."""

    def __init__(self) -> None:
        self._looked_s, self._used_s = time.monotonic(), time.process_time()

    def look(self) -> float:
        """The busy share in [0, 1]; several threads at once count for no more than one core."""
        now_s, used_s = time.monotonic(), time.process_time()
        share = (used_s - self._used_s) / max(now_s - self._looked_s, 1e-3)
        self._looked_s, self._used_s = now_s, used_s
        return min(1.0, max(0.0, share))
