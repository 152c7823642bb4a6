"""Deadlines, backoff and the wait for a condition."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.clock import SYSTEM_CLOCK, Backoff, Deadline, wait_until
from cluster.errors import DeadlineExceeded
from tests.support.fakes import SimClock


def test_a_deadline_counts_down_to_zero_and_not_below() -> None:
    clock = SimClock()
    deadline = Deadline.after(2.0, clock)
    seen = []
    for _ in range(5):
        seen.append(deadline.remaining_s())
        clock.sleep(0.75)
    assert seen == [2.0, 1.25, 0.5, 0.0, 0.0]
    assert deadline.expired()


@pytest.mark.parametrize("timeout_s", [0.0, -1.0])
def test_no_time_is_expired_from_the_start(timeout_s: float) -> None:
    assert Deadline.after(timeout_s, SimClock()).expired()


def test_check_says_what_ran_out() -> None:
    clock = SimClock()
    deadline = Deadline.after(1.0, clock)
    deadline.check("searching")
    clock.sleep(1.0)
    with pytest.raises(DeadlineExceeded, match="while searching"):
        deadline.check("searching")


def test_the_system_clock_goes_forward_and_knows_the_epoch() -> None:
    assert SYSTEM_CLOCK.monotonic_s() <= SYSTEM_CLOCK.monotonic_s()
    assert SYSTEM_CLOCK.wall_ms() > 1_600_000_000_000


@pytest.mark.parametrize(
    ("comes_s", "timeout_s", "found", "looks"),
    [(0.0, 1.0, "it", 1), (0.5, 1.0, "it", 3), (9.0, 1.0, "", 5), (9.0, 0.0, "", 1)],
)
def test_a_condition_is_waited_for_until_it_holds_or_the_time_is_over(
    comes_s: float, timeout_s: float, found: str, looks: int
) -> None:
    clock, seen_s = SimClock(0.0), []

    def look() -> str:
        seen_s.append(clock.now_s)
        return "it" if clock.now_s >= comes_s else ""

    wait = {"poll_s": 0.25, "clock": clock, "sleep": clock.sleep}
    assert wait_until(look, timeout_s, **wait) == found
    assert seen_s == [0.25 * n for n in range(looks)]


def test_waits_grow_to_the_cap() -> None:
    backoff = Backoff(initial_s=0.1, multiplier=2.0, wait_max_s=1.0, jitter=0.0)
    waits = [backoff.wait_s(attempt, random.Random(1)) for attempt in range(6)]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


@given(attempt=st.integers(0, 10**6), seed=st.integers())
def test_waits_stay_within_the_cap_and_its_jitter(attempt: int, seed: int) -> None:
    backoff = Backoff()
    wait_s = backoff.wait_s(attempt, random.Random(seed))
    assert 0 < wait_s <= backoff.wait_max_s * (1 + backoff.jitter)
    assert wait_s >= min(backoff.wait_max_s, backoff.initial_s)


def test_jitter_keeps_two_callers_out_of_step() -> None:
    waits = {Backoff().wait_s(3, random.Random(seed)) for seed in range(20)}
    assert len(waits) == 20
