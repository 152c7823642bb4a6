"""What befalls every request does not fill the disk with its log."""

from __future__ import annotations

import logging

from cluster.logs.events import Event
from cluster.logs.flood import PER_S, FloodFilter


def record(name: str, created_s: float) -> logging.LogRecord:
    event = Event(name=name, sentence="it failed", is_alert=False, context={}, fields={"n": 1})
    made = logging.LogRecord("tests", logging.ERROR, "", 1, event, (), None)
    made.created = created_s
    return made


def test_so_many_of_a_kind_come_through_in_a_second() -> None:
    flood = FloodFilter()
    assert [flood.filter(record("a.b", 7.5)) for _ in range(PER_S + 3)] == [True] * PER_S + 3 * [
        False
    ]
    assert flood.filter(record("another.kind", 7.9))
    later, last = record("a.b", 8.0), record("a.b", 8.1)
    assert flood.filter(later)
    assert flood.filter(last)
    assert isinstance(later.msg, Event)
    assert isinstance(last.msg, Event)
    assert later.msg.fields == {"n": 1, "left_out": 3}
    assert last.msg.fields == {"n": 1}


def test_a_record_that_comes_late_begins_no_second_anew() -> None:
    flood = FloodFilter()
    assert flood.filter(record("a.b", 7.9))
    in_time = [flood.filter(record("a.b", 8.0 + n / 100)) for n in range(PER_S)]
    assert in_time == [True] * PER_S
    assert not flood.filter(record("a.b", 7.9))
    assert not flood.filter(record("a.b", 8.5))
    # A clock that was set back is no such record.
    assert flood.filter(record("a.b", 3.0))


def test_other_libraries_are_bounded_by_their_loggers() -> None:
    flood = FloodFilter()

    def plain(name: str) -> logging.LogRecord:
        made = logging.LogRecord(name, logging.WARNING, "", 1, "%d left", (1,), None)
        made.created = 7.0
        return made

    assert sum(flood.filter(plain("httpx")) for _ in range(3 * PER_S)) == PER_S
    assert flood.filter(plain("asyncio"))
