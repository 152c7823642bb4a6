"""The releases that the requests of a process use; see `actors.coordinator.loading.departures`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class ReleaseUses:
    """Counts the requests of this process by the release that they are pinned to."""

    def __init__(self) -> None:
        self._requests: Counter[int] = Counter()

    @contextmanager
    def during(self, release: int) -> Iterator[None]:
        """Around a request that is pinned to the release."""
        self._requests[release] += 1
        try:
            yield
        finally:
            self._requests[release] -= 1
            if not self._requests[release]:
                del self._requests[release]

    def releases(self) -> frozenset[int]:
        """The releases that requests are pinned to."""
        return frozenset(self._requests)
