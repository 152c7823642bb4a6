"""A bound on how much a fault that befalls every request can write."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace

from cluster.logs.events import Event

PER_S = 20
"""Records of one kind in a second."""


class FloodFilter(logging.Filter):
    """Lets the first records of a kind in each second through. A kind is an event's name, or the
    logger of another library. The next event that comes through says how many were `left_out`.

    The bound is approximate where threads write at the same moment: `logging` asks filters without
    a lock, and records that are counted at once may be counted as one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._second = 0
        self._written: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        event = record.msg if isinstance(record.msg, Event) else None
        kind = record.name if event is None else event.name
        # A thread that was held up comes with a record of the second before.
        if int(record.created) not in (self._second - 1, self._second):
            self._second = int(record.created)
            self._written.clear()
        self._written[kind] += 1
        if self._written[kind] > PER_S:
            self._left_out[kind] += 1
            return False
        left_out = self._left_out.pop(kind, 0)
        if event is not None and left_out:
            record.msg = replace(event, fields={**event.fields, "left_out": left_out})
        return True
