"""The queue in front of an append, for those who offer writes while the writer's thread takes
them.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

from cluster.mutations.group_commit import GroupCommit, PendingWrite


class SharedQueue(GroupCommit):
    """Thread-safe."""

    def __init__(self) -> None:
        super().__init__()
        self._turn = threading.Lock()

    def offer(self, pending: PendingWrite) -> None:
        with self._turn:
            super().offer(pending)

    def take(self) -> tuple[PendingWrite, ...]:
        with self._turn:
            return super().take()

    def put_back(self, group: Sequence[PendingWrite]) -> None:
        with self._turn:
            super().put_back(group)

    def withdraw(self, tickets: Collection[int]) -> frozenset[int]:
        with self._turn:
            return super().withdraw(tickets)
