"""The queue in front of an append: what arrives while one is under way becomes the next object."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cluster.errors import Overloaded, TooLarge
from cluster.mutations.mutation import Write
from cluster.mutations.mutation_log import BATCH_BYTES_MAX, MUTATIONS_MAX

QUEUE_MUTATIONS_MAX = 10_000
QUEUE_BYTES_MAX = 64 * 2**20
_APPEND_S = 0.05
"""How long an append takes, before one was made."""


@dataclass(frozen=True, slots=True)
class PendingWrite:
    """A write that waits for its append."""

    ticket: int
    """The number by which whoever asked for it learns what became of it."""
    write: Write
    expires_s: float
    """Moment of the process's monotonic clock after which it must not be appended any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLimits:
    """The bounds of one group and of the queue: numbers of writes, and their bytes."""

    mutations_max: int = MUTATIONS_MAX
    bytes_max: int = BATCH_BYTES_MAX
    queue_mutations_max: int = QUEUE_MUTATIONS_MAX
    queue_bytes_max: int = QUEUE_BYTES_MAX


class GroupCommit:
    """Groups writes in the order of their arrival. No timer: a group is what waits."""

    def __init__(self, limits: GroupLimits | None = None) -> None:
        self._limits = limits or GroupLimits()
        self._waiting: deque[PendingWrite] = deque()
        self._bytes = 0
        self._append_s = _APPEND_S

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, pending: PendingWrite) -> None:
        """Has the write wait for its turn.

        Raises TooLarge when it does not fit into any group, Overloaded when the queue is full, with
        the time after which it should have room.
        """
        limits, size_bytes = self._limits, pending.write.size_bytes
        if size_bytes > limits.bytes_max:
            raise TooLarge(
                f"the document {pending.write.document[:64]!r} takes {size_bytes} bytes with its "
                f"vectors, more than {limits.bytes_max}; divide it into several documents"
            )
        if (
            len(self._waiting) >= limits.queue_mutations_max
            or self._bytes + size_bytes > limits.queue_bytes_max
        ):
            raise Overloaded(
                f"{len(self._waiting)} writes wait to be stored; come back later",
                self.retry_after_s,
            )
        self._waiting.append(pending)
        self._bytes += size_bytes

    def take(self) -> tuple[PendingWrite, ...]:
        """The next group: the writes that have waited longest, as many as fit."""
        group: list[PendingWrite] = []
        room_bytes = self._limits.bytes_max
        while self._waiting and len(group) < self._limits.mutations_max:
            size_bytes = self._waiting[0].write.size_bytes
            if size_bytes > room_bytes:
                break
            room_bytes -= size_bytes
            self._bytes -= size_bytes
            group.append(self._waiting.popleft())
        return tuple(group)

    def put_back(self, group: Sequence[PendingWrite]) -> None:
        """Has a group that was not appended wait at the front again, in its order."""
        self._waiting.extendleft(reversed(group))
        self._bytes += sum(pending.write.size_bytes for pending in group)

    def withdraw(self, tickets: Collection[int]) -> frozenset[int]:
        """Takes these writes out, as far as they still wait; returns which ones, of which it is
        certain that they will not be appended.
        """
        waiting, self._waiting = self._waiting, deque()
        withdrawn = set()
        for pending in waiting:
            if pending.ticket in tickets:
                withdrawn.add(pending.ticket)
                self._bytes -= pending.write.size_bytes
            else:
                self._waiting.append(pending)
        return frozenset(withdrawn)

    def has_taken(self, append_s: float) -> None:
        """Notes how long the last append has taken, for hints when to come back."""
        self._append_s = append_s

    @property
    def retry_after_s(self) -> float:
        """The time in which what waits now should be stored, as fast as the last append was."""
        by_number = math.ceil(len(self._waiting) / self._limits.mutations_max)
        by_bytes = math.ceil(self._bytes / self._limits.bytes_max)
        return max(1, by_number, by_bytes) * self._append_s
