"""A release is unloaded once no process uses it, and at last when the longest request is over."""

from __future__ import annotations

import pytest

from actors.coordinator.loading.departures import Departures
from actors.query.release_uses import ReleaseUses
from cluster.query.terms import TIMEOUT_S_MAX
from tests.support.fakes import SimClock

NONE: frozenset[int] = frozenset()


@pytest.fixture
def clock() -> SimClock:
    return SimClock()


@pytest.fixture
def departures(clock: SimClock) -> Departures:
    return Departures(clock)


def waits(departures: Departures, clock: SimClock, until_s: float, **told: set[int]) -> None:
    """Lets the time pass, while these processes tell each second that they use these releases."""
    while clock.now_s < until_s:
        for process, releases in told.items():
            departures.report(process, frozenset(releases))
        clock.sleep(1.0)


def test_requests_are_counted_by_release() -> None:
    uses = ReleaseUses()
    with uses.during(1), uses.during(1):
        with uses.during(2):
            assert uses.releases() == {1, 2}
        assert uses.releases() == {1}
    assert uses.releases() == NONE
    with pytest.raises(ValueError, match="x"), uses.during(3):
        raise ValueError("x")
    assert uses.releases() == NONE


def test_nothing_is_due_that_does_not_depart(departures: Departures, clock: SimClock) -> None:
    departures.report("a", frozenset({1, 2}))
    assert departures.due() == []
    departures.begin(1)
    departures.end(1)
    clock.sleep(1000.0)
    assert departures.due() == []


def test_an_unused_release_goes_once_everybody_could_tell(
    departures: Departures, clock: SimClock
) -> None:
    departures.report("a", frozenset({1, 2}))
    departures.begin(1)
    start_s = clock.now_s
    assert departures.due() == []
    waits(departures, clock, start_s + 4.0, a={2}, b={2})
    assert departures.due() == []
    waits(departures, clock, start_s + 5.0, a={2}, b={2})
    assert departures.due() == [1]
    departures.end(1)
    assert departures.due() == []


def test_a_stream_holds_its_release_until_it_ends(departures: Departures, clock: SimClock) -> None:
    departures.begin(1)
    start_s = clock.now_s
    waits(departures, clock, start_s + 300.0, a={2}, b={1, 2})
    assert departures.due() == []
    departures.report("b", frozenset({2}))
    assert departures.due() == [1]


def test_no_release_is_held_longer_than_the_longest_request(
    departures: Departures, clock: SimClock
) -> None:
    departures.begin(1)
    start_s = clock.now_s
    waits(departures, clock, start_s + TIMEOUT_S_MAX - 1.0, a={1})
    assert departures.due() == []
    # Told again by the rollout: it departs since it was first told.
    departures.begin(1)
    waits(departures, clock, start_s + TIMEOUT_S_MAX, a={1})
    assert departures.due() == [1]


def test_a_process_that_is_gone_holds_a_release_for_half_a_minute(
    departures: Departures, clock: SimClock
) -> None:
    departures.report("a", frozenset({1}))
    departures.begin(1)
    start_s = clock.now_s
    waits(departures, clock, start_s + 30.0, b={2})
    assert departures.due() == []
    waits(departures, clock, start_s + 31.0, b={2})
    assert departures.due() == [1]
