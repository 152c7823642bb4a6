"""The rows of a base's shard that changes of documents have replaced, at each version.

A process that searches for others is asked for versions that it has come past, or jumped over. So
it remembers from which version on a row is hidden, and in which spaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.arrays import Int64Array, Mask
from cluster.deltas.changes import Changes
from cluster.deltas.growing import with_room
from cluster.deltas.space import Reach, SeenIn, Space, seen_in

_FOR_EVER = np.iinfo(np.int64).max
_VERSIONS_KEPT = 10_000
"""Versions for which a row is remembered that was hidden and is not any more."""
_SPANS_MIN = 1024
_ROW, _BEGIN, _END, _SPACE = range(4)


@dataclass(frozen=True, slots=True)
class HidingChange:
    """A change of a document, as far as it hides rows."""

    document: str
    seen: SeenIn
    since: int
    """The first version in which the document was not as the base has it, of those that one who
    takes the change in did not know.
    """


def hiding_changes(changes: Changes) -> list[HidingChange]:
    """The same for those who need no contents."""
    return [
        HidingChange(one.document, seen_in(one.content), max(one.since, changes.after + 1))
        for one in changes.changes
    ]


class HiddenRows:
    """Of one shard, in one epoch. One thread at a time may take changes in, beside any that ask."""

    def __init__(self, num_rows: int, rows_of: Callable[[str], Sequence[int]]) -> None:
        """`rows_of`: the rows of a document's passages."""
        self._num_rows = num_rows
        self._rows_of = rows_of
        # int64 [n, 4]: row; first version in which it is hidden; version in which it is not any
        # more; number of the spaces in which. Replaced together with the number of those in use.
        self._spans: tuple[Int64Array, int] = (np.empty((_SPANS_MIN, 4), dtype=np.int64), 0)
        self._hidden: dict[str, tuple[SeenIn, int, int]] = {}
        """For each document with rows here that are hidden: in which spaces, by which spans."""
        self._numbers: dict[SeenIn, int] = {Reach.EVERYWHERE: 0}

    @property
    def num_remembered(self) -> int:
        """Rows that are hidden, or were in a version that may still be asked for."""
        return self._spans[1]

    def take(self, changes: Iterable[HidingChange], version: int) -> None:
        """Takes in the changes that lead from the version before to this one."""
        for change in changes:
            self._take(change, version)

    def live_at(self, version: int, space: Space) -> Mask | None:
        """bool [num_rows], false where a row is hidden from searches of the space; None where none
        is. Versions before the first changes taken in are known as that one.
        """
        spans, count = self._spans
        used = spans[:count]
        own = self._numbers.get(space, 0)
        is_hidden = (used[:, _BEGIN] <= version) & (version < used[:, _END])
        is_hidden &= (used[:, _SPACE] == 0) | (used[:, _SPACE] == own)
        if not is_hidden.any():
            return None
        live = np.ones(self._num_rows, dtype=np.bool_)
        live[used[is_hidden, _ROW]] = False
        return live

    def _take(self, change: HidingChange, version: int) -> None:
        begin = change.since
        if (known := self._hidden.get(change.document)) is not None:
            was_seen, first, end = known
            if was_seen == change.seen:
                return
            self._spans[0][first:end, _END] = begin = version
            del self._hidden[change.document]
        if change.seen is not Reach.NOWHERE and (rows := self._rows_of(change.document)):
            self._hide(change, rows, begin, version)

    def _hide(self, change: HidingChange, rows: Sequence[int], begin: int, version: int) -> None:
        if self._spans[1] + len(rows) > len(self._spans[0]):
            self._forget_ended(version - _VERSIONS_KEPT)
        spans, count = self._spans
        end = count + len(rows)
        spans = with_room(spans, end)
        number = self._numbers.setdefault(change.seen, len(self._numbers))
        spans[count:end] = [(row, begin, _FOR_EVER, number) for row in rows]
        self._spans = spans, end
        self._hidden[change.document] = change.seen, count, end

    def _forget_ended(self, version: int) -> None:
        """Forgets the rows that are hidden in no later version than this one."""
        spans, count = self._spans
        kept = np.flatnonzero(spans[:count, _END] > version)
        self._spans = spans[kept], len(kept)
        for document, (seen, first, end) in self._hidden.items():
            moved = int(np.searchsorted(kept, first))
            self._hidden[document] = seen, moved, moved + end - first
