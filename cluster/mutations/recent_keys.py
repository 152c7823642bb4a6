"""Idempotency keys of the writes that are in the log, for a bounded time and number."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cluster.mutations.hybrid_clock import HybridTime
from cluster.mutations.mutation import Content

KEY_KEPT_MS = 3_600_000
"""So long a key is known, by the times in the log."""
KEYS_MAX = 100_000
"""So many keys are known, the latest ones, however young older ones are."""


@dataclass(frozen=True, slots=True)
class KnownKey:
    """The write that has used a key."""

    time: HybridTime
    position: int
    """In the log of the region of `time`; of a write read by way of a span, the span's last one."""
    fingerprint: bytes


class RecentKeys:
    """The keys of the last hour. Not thread-safe."""

    def __init__(self, *, kept_ms: int = KEY_KEPT_MS, keys_max: int = KEYS_MAX) -> None:
        self._kept_ms = kept_ms
        self._keys_max = keys_max
        self._known: dict[str, KnownKey] = {}
        self._now_ms = 0

    def add(self, key: str, known: KnownKey) -> None:
        """Of two writes of one key, which two regions may have appended, the first one stays, as
        long as its key is known.
        """
        self._now_ms = max(self._now_ms, known.time.wall_ms)
        if self.get(key) is None:
            self._known.pop(key, None)
            self._known[key] = known
        while self._known:
            first = next(iter(self._known))
            if len(self._known) <= self._keys_max and not self._is_old(first):
                break
            del self._known[first]

    def get(self, key: str) -> KnownKey | None:
        return None if key not in self._known or self._is_old(key) else self._known[key]

    def _is_old(self, key: str) -> bool:
        return self._known[key].time.wall_ms < self._now_ms - self._kept_ms


def fingerprint(document: str, content: Content | None) -> bytes:
    """What tells a repeated write from another one of the same key."""
    digest = b"" if content is None else content.digest()
    return hashlib.blake2b(digest + document.encode(), digest_size=16).digest()
