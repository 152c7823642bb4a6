"""Hybrid clocks: later stamps than all seen ones, close to the wall clock, or a typed error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ClockAhead, InvalidArgument
from cluster.mutations.hybrid_clock import COUNTER_MAX, HybridClock, HybridTime
from tests.support.fakes import SimClock

SKEW_MAX_MS = 100
NOW_MS = 1_000_000
TIMES = st.builds(
    HybridTime,
    st.integers(0, 2**48),
    st.integers(0, COUNTER_MAX),
    st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True),
)


def clock_of(region: str = "a", wall: SimClock | None = None) -> HybridClock:
    return HybridClock(region, wall or SimClock(), skew_max_ms=SKEW_MAX_MS)


def test_a_stamp_is_the_wall_clock_where_nothing_is_ahead_of_it() -> None:
    wall = SimClock()
    clock = clock_of("a", wall)
    assert clock.stamp() == HybridTime(NOW_MS, 0, "a")
    assert clock.stamp() == HybridTime(NOW_MS, 1, "a")
    wall.sleep(0.001)
    assert clock.stamp() == HybridTime(NOW_MS + 1, 0, "a")


def test_an_observed_time_comes_before_all_later_stamps() -> None:
    clock = clock_of("a")
    clock.observe(HybridTime(NOW_MS + 50, 7, "b"))
    assert clock.stamp() == HybridTime(NOW_MS + 50, 8, "a")
    clock.observe(HybridTime(NOW_MS, 9, "b"))
    assert clock.stamp() == HybridTime(NOW_MS + 50, 9, "a")


def test_a_full_counter_borrows_from_the_next_millisecond() -> None:
    clock = clock_of("a")
    clock.observe(HybridTime(NOW_MS, COUNTER_MAX, "b"))
    assert clock.stamp() == HybridTime(NOW_MS + 1, 0, "a")


@pytest.mark.parametrize(("ahead_ms", "refused"), [(SKEW_MAX_MS, False), (SKEW_MAX_MS + 1, True)])
def test_a_time_too_far_ahead_is_refused_and_changes_nothing(ahead_ms: int, refused: bool) -> None:
    clock = clock_of("a")
    time = HybridTime(NOW_MS + ahead_ms, 0, "b")
    if not refused:
        clock.observe(time)
        assert clock.stamp() > time
        return
    with pytest.raises(ClockAhead) as caught:
        clock.observe(time)
    assert caught.value.ahead_ms == ahead_ms
    assert clock.stamp() == HybridTime(NOW_MS, 0, "a")


def test_a_wall_clock_that_goes_back_far_stops_the_stamps_until_it_is_back() -> None:
    wall = SimClock()
    clock = clock_of("a", wall)
    before = clock.stamp()
    wall.now_s -= 0.05
    assert clock.stamp() > before
    wall.now_s -= 10.0
    with pytest.raises(ClockAhead):
        clock.stamp()
    wall.now_s += 20.0
    assert clock.stamp() == HybridTime(NOW_MS + 9950, 0, "a")


STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from([0.0, 0.001, 0.03])),
    max_size=40,
)


@given(steps=STEPS)
def test_what_was_seen_comes_before_what_is_written_then_whatever_the_clocks_say(
    steps: list[tuple[int, int, float]],
) -> None:
    """Three regions whose clocks drift; each step one reads another's last time and writes."""
    walls = [SimClock() for _ in range(3)]
    clocks = [clock_of(region, wall) for region, wall in zip("abc", walls, strict=True)]
    last: list[HybridTime | None] = [None, None, None]
    given_out: set[HybridTime] = set()
    for writer, origin, drift_s in steps:
        walls[writer].now_s = min(walls[writer].now_s + drift_s, 1000.05)
        seen = last[origin]
        if seen is not None:
            clocks[writer].observe(seen)
        stamp = clocks[writer].stamp()
        assert seen is None or stamp > seen
        before = last[writer]
        assert before is None or stamp > before
        assert stamp.wall_ms <= max(wall.wall_ms() for wall in walls) + 1
        assert stamp not in given_out
        given_out.add(stamp)
        last[writer] = stamp


@given(time=TIMES)
def test_the_form_that_callers_see_reads_back(time: HybridTime) -> None:
    assert HybridTime.parse(str(time), "if_version") == time


@pytest.mark.parametrize(
    "text",
    ["", "1", "1.2", "1.2.", "a.2.x", "1.-2.x", "01.2.x", "1. 2.x", "1.2147483648.x", "²1.0.x"],
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        HybridTime.parse(text, "if_version")
    assert caught.value.field == "if_version"
