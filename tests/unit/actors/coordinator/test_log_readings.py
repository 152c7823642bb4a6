"""Readings of the log that many wait for: each gets one that began after it came."""

from __future__ import annotations

import threading

import pytest

from actors.coordinator.log_readings import LogReadings
from cluster.errors import Unavailable


def test_a_wait_ends_with_the_next_complete_reading() -> None:
    readings = LogReadings()
    number = readings.next()
    readings.begin()
    readings.end(complete=True)
    readings.wait(number, 0.0)


def test_a_reading_that_is_under_way_began_too_early() -> None:
    readings = LogReadings()
    readings.begin()
    number = readings.next()
    readings.end(complete=True)
    with pytest.raises(Unavailable, match="not read in time"):
        readings.wait(number, 0.0)


def test_a_reading_that_fails_is_told_at_once() -> None:
    readings = LogReadings()
    number = readings.next()
    readings.begin()
    readings.end(complete=False, reason="no answer")
    with pytest.raises(Unavailable, match="cannot be read: no answer"):
        readings.wait(number, 60.0)


def test_a_wait_ends_without_an_error_when_a_later_reading_makes_up_for_one_that_failed() -> None:
    readings = LogReadings()
    number = readings.next()
    for complete in (False, True):
        readings.begin()
        readings.end(complete=complete)
    readings.wait(number, 0.0)


def test_an_earlier_reading_does_not_make_up_for_one_that_failed() -> None:
    readings = LogReadings()
    readings.begin()
    readings.end(complete=True)
    number = readings.next()
    readings.begin()
    readings.end(complete=False, reason="no answer")
    with pytest.raises(Unavailable):
        readings.wait(number, 0.0)


def test_many_share_one_reading() -> None:
    readings = LogReadings()
    numbers = [readings.next() for _ in range(20)]
    waiting = [threading.Thread(target=readings.wait, args=(n, 60.0)) for n in numbers]
    for thread in waiting:
        thread.start()
    readings.begin()
    readings.end(complete=True)
    for thread in waiting:
        thread.join(60.0)
        assert not thread.is_alive()
