"""When a hedge is due, and how many there may be."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.balance.hedging import ExpectedLatency, HedgeBudget, HedgeSettings

SETTINGS = HedgeSettings()


def test_nothing_is_expected_before_there_are_enough_answers() -> None:
    expected = ExpectedLatency()
    for _ in range(SETTINGS.samples_min - 1):
        expected.answered(0.1)
    assert expected.at_most_s() is None
    assert expected.hedge_delay_s() is None
    expected.answered(0.1)
    assert expected.at_most_s() == 0.1
    assert expected.hedge_delay_s() == pytest.approx(SETTINGS.patience * 0.1)


def test_a_quick_tier_is_given_the_least_delay() -> None:
    expected = ExpectedLatency()
    for _ in range(SETTINGS.samples_min):
        expected.answered(0.0005)
    assert expected.hedge_delay_s() == SETTINGS.delay_s_min


def test_one_answer_in_a_hundred_moves_the_expectation_little_and_a_new_tide_moves_it() -> None:
    expected = ExpectedLatency()
    for number in range(300):
        expected.answered(10.0 if number % 100 == 0 else 0.1)
    assert expected.at_most_s() == 0.1
    for _ in range(SETTINGS.samples_max // 10):
        expected.answered(1.0)
    assert expected.at_most_s() == 1.0
    for _ in range(SETTINGS.samples_max):
        expected.answered(0.1)
    assert expected.at_most_s() == 0.1


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=200), st.integers(1, 30))
def test_it_is_the_quantile_of_the_last_answers(latencies_s: list[float], window: int) -> None:
    settings = HedgeSettings(samples_min=1, samples_max=window)
    expected = ExpectedLatency(settings)
    recent: deque[float] = deque(maxlen=window)
    for latency_s in latencies_s:
        expected.answered(latency_s)
        recent.append(latency_s)
        at_most_s = expected.at_most_s()
        assert at_most_s is not None
        assert at_most_s in recent
        quicker = sum(known < at_most_s for known in recent)
        as_quick = sum(known <= at_most_s for known in recent)
        assert quicker <= settings.quantile * len(recent) <= as_quick


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 30)), max_size=30))
def test_hedges_stay_within_the_budget_in_every_stretch(bursts: list[tuple[int, int]]) -> None:
    budget = HedgeBudget()
    asked, taken = [0], [0]
    for requests, wanted in bursts:
        for _ in range(requests):
            budget.asked()
        hedges = sum(budget.take() for _ in range(wanted))
        asked.append(asked[-1] + requests)
        taken.append(taken[-1] + hedges)
        assert taken[-1] <= SETTINGS.extra_max * asked[-1] + 1e-9
        for earlier in range(len(asked)):
            stretch = asked[-1] - asked[earlier]
            allowed = SETTINGS.saved_max + SETTINGS.extra_max * stretch
            assert taken[-1] - taken[earlier] <= allowed + 1e-9


def test_what_was_saved_is_there_when_a_replica_hangs() -> None:
    budget = HedgeBudget()
    for _ in range(10_000):
        budget.asked()
    assert sum(budget.take() for _ in range(1000)) == SETTINGS.saved_max


def test_no_extra_requests_are_allowed_by_a_budget_of_none() -> None:
    budget = HedgeBudget(HedgeSettings(extra_max=0.0))
    for _ in range(1000):
        budget.asked()
    assert not budget.take()
