"""The breaker of one replica: a table of its states, and what holds in every story."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.balance.circuit_breaker import DEFAULT_BREAKER, CircuitBreaker
from cluster.balance.verdicts import Verdict
from tests.support.fakes import SimClock

BACKOFF = DEFAULT_BREAKER.backoff
OPEN_S_MAX = BACKOFF.wait_max_s * (1 + BACKOFF.jitter)


def make_breaker(seed: int = 1) -> tuple[CircuitBreaker, SimClock]:
    clock = SimClock()
    return CircuitBreaker(now_s=clock.monotonic_s, rng=random.Random(seed)), clock


def is_closed(breaker: CircuitBreaker) -> bool:
    """A request that passes is a probe, except while the breaker is closed."""
    if not breaker.passes():
        return False
    probe = breaker.began()
    breaker.inconclusive(probe=probe)
    return not probe


def opened(seed: int = 1) -> tuple[CircuitBreaker, SimClock]:
    breaker, clock = make_breaker(seed)
    for _ in range(DEFAULT_BREAKER.failures_in_row_max):
        breaker.failed(probe=False)
    assert not breaker.passes()
    return breaker, clock


def half_open() -> tuple[CircuitBreaker, SimClock]:
    breaker, clock = opened()
    clock.sleep(OPEN_S_MAX)
    assert breaker.passes()
    return breaker, clock


def test_it_opens_after_failures_in_a_row_and_not_before() -> None:
    breaker, _ = make_breaker()
    for _ in range(DEFAULT_BREAKER.failures_in_row_max - 1):
        breaker.failed(probe=False)
    assert is_closed(breaker)
    breaker.failed(probe=False)
    assert not breaker.passes()


@pytest.mark.parametrize(("failures_of_ten", "opens"), [(2, False), (4, False), (7, True)])
def test_it_opens_when_too_many_of_the_recent_outcomes_are_failures(
    failures_of_ten: int, opens: bool
) -> None:
    breaker, _ = make_breaker()
    # Spread out, so that few are in a row.
    pattern = [(n * failures_of_ten) % 10 < failures_of_ten for n in range(10)]
    for failure in pattern * 20:
        (breaker.failed if failure else breaker.succeeded)(probe=False)
    assert is_closed(breaker) is not opens


def test_good_probes_close_it() -> None:
    breaker, _ = half_open()
    for _ in range(DEFAULT_BREAKER.good_probes):
        assert breaker.passes()
        assert breaker.began()
        assert not breaker.passes()
        assert not breaker.began()
        breaker.succeeded(probe=True)
    assert is_closed(breaker)


def test_each_failed_probe_opens_it_for_longer_up_to_the_bound() -> None:
    breaker, clock = opened()
    waits_s = []
    for _ in range(10):
        started_s = clock.now_s
        while not breaker.passes():
            clock.sleep(0.01)
        waits_s.append(clock.now_s - started_s)
        assert breaker.began()
        breaker.failed(probe=True)
        assert not breaker.passes()
    assert waits_s[0] <= BACKOFF.initial_s * (1 + BACKOFF.jitter) + 0.011
    assert waits_s[:4] == sorted(waits_s[:4])
    assert BACKOFF.wait_max_s <= waits_s[-1] <= OPEN_S_MAX + 0.011


def test_after_it_has_closed_the_backoff_starts_anew() -> None:
    breaker, clock = half_open()
    for _ in range(3):
        breaker.began()
        breaker.failed(probe=True)
        clock.sleep(OPEN_S_MAX)
    for _ in range(DEFAULT_BREAKER.good_probes):
        breaker.began()
        breaker.succeeded(probe=True)
    for _ in range(DEFAULT_BREAKER.failures_in_row_max):
        breaker.failed(probe=False)
    assert not breaker.passes()
    clock.sleep(BACKOFF.initial_s * (1 + BACKOFF.jitter))
    assert breaker.passes()


def test_breakers_that_opened_together_are_not_probed_together() -> None:
    until_s = set()
    for seed in range(20):
        breaker, clock = opened(seed)
        while not breaker.passes():
            clock.sleep(0.001)
        until_s.add(round(clock.now_s, 3))
    assert len(until_s) > 10


def test_a_probe_that_tells_nothing_makes_room_for_the_next() -> None:
    breaker, _ = half_open()
    assert breaker.began()
    breaker.inconclusive(probe=True)
    assert breaker.began()


def test_what_was_sent_before_it_opened_changes_nothing_when_it_ends() -> None:
    breaker, _ = half_open()
    assert breaker.began()
    for _ in range(DEFAULT_BREAKER.failures_in_row_max):
        breaker.failed(probe=False)
        breaker.succeeded(probe=False)
        breaker.inconclusive(probe=False)
    assert not breaker.passes()
    breaker.inconclusive(probe=True)
    assert breaker.began()


@pytest.mark.parametrize(("verdict", "opens"), [(v, v is Verdict.FAILED) for v in Verdict])
def test_the_error_of_a_watched_request_counts_as_its_verdict_says(
    verdict: Verdict, opens: bool
) -> None:
    breaker, clock = make_breaker()
    error = KeyError("x")

    def verdict_of(raised: BaseException, took_s: float) -> Verdict:
        assert raised is error
        assert took_s == pytest.approx(0.25)
        return verdict

    def request() -> None:
        with breaker.watched(verdict_of):
            clock.sleep(0.25)
            raise error

    for _ in range(DEFAULT_BREAKER.failures_in_row_max):
        with pytest.raises(KeyError):
            request()
    assert is_closed(breaker) is not opens


def test_a_watched_request_is_the_probe_and_its_success_counts() -> None:
    breaker, _ = half_open()
    for _ in range(DEFAULT_BREAKER.good_probes):
        assert not is_closed(breaker)
        with breaker.watched(lambda error, took_s: Verdict.INCONCLUSIVE):
            assert not breaker.passes()
    assert is_closed(breaker)


steps = st.lists(
    st.one_of(
        st.just(("began", 0.0)),
        st.tuples(st.sampled_from(["succeeded", "failed", "inconclusive"]), st.floats(0.0, 1.0)),
        st.tuples(st.just("silence"), st.floats(0.0, 2 * OPEN_S_MAX)),
    ),
    max_size=120,
)


@given(steps, st.integers(0, 2**32))
def test_one_probe_at_a_time_and_never_open_for_longer_than_the_bound(
    story: list[tuple[str, float]], seed: int
) -> None:
    breaker, clock = make_breaker(seed)
    running: list[bool] = []
    open_since_s: float | None = None
    for what, amount in story:
        if what == "began":
            passed = breaker.passes()
            closed = is_closed(breaker)
            running.append(breaker.began())
            # Whoever may pass outside `closed` is the probe, and nobody else is.
            assert running[-1] == (passed and not closed)
        elif what == "silence":
            clock.sleep(amount)
        elif running:
            probe = running.pop(int(amount * (len(running) - 1)))
            closed, passed = is_closed(breaker), breaker.passes()
            getattr(breaker, what)(probe=probe)
            assert probe or closed or (not is_closed(breaker) and breaker.passes() is passed)
        assert sum(running) <= 1
        assert not (any(running) and breaker.passes())
        if breaker.passes() or any(running):
            open_since_s = None
        elif open_since_s is None:
            open_since_s = clock.now_s
        else:
            assert clock.now_s - open_since_s <= OPEN_S_MAX
    # From every state good answers lead back to closed.
    for probe in running:
        breaker.inconclusive(probe=probe)
    clock.sleep(OPEN_S_MAX)
    for _ in range(DEFAULT_BREAKER.good_probes):
        breaker.succeeded(probe=breaker.began())
    assert is_closed(breaker)
