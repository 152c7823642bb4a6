"""Canaries: who is served by one, and when it is at fault. Traffic is simulated, from seeds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.canary.board import CanaryBoard, Lots, chance, lot_of
from cluster.canary.counts import Measure, OutcomeReport, Sides, Work, class_of

REPORT_S = 2.0
ROUTED = 10_000
SHARES = (1, 5, 25, 50, 100)


@pytest.mark.parametrize("percent", SHARES)
def test_lots_without_a_user_keep_the_share(percent: int) -> None:
    lots = Lots()
    drawn = [lots.next() for _ in range(ROUTED)]
    assert all(0.0 <= lot < 1.0 for lot in drawn)
    share = sum(lot * 100 < percent for lot in drawn) / ROUTED
    assert share == pytest.approx(percent / 100, abs=0.001)


@pytest.mark.parametrize("every", [2, 7, 32])
def test_what_comes_round_in_turns_gets_the_same_share(every: int) -> None:
    lots = Lots()
    drawn = [lots.next() for _ in range(ROUTED * every)][::every]
    assert sum(lot < 0.25 for lot in drawn) / ROUTED == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("release", [2, 3, 17])
@pytest.mark.parametrize("percent", SHARES)
def test_users_keep_the_share(percent: int, release: int) -> None:
    share = sum(lot_of(f"user-{n}", release) * 100 < percent for n in range(ROUTED)) / ROUTED
    assert share == pytest.approx(percent / 100, abs=0.01)


@given(user=st.text(min_size=1), release=st.integers(1, 1000))
def test_a_users_lot_is_the_same_every_time(user: str, release: int) -> None:
    assert 0.0 <= lot_of(user, release) < 1.0
    assert lot_of(user, release) == lot_of(user, release)


def test_each_canary_has_other_users() -> None:
    both = sum(lot_of(str(n), 2) < 0.1 and lot_of(str(n), 3) < 0.1 for n in range(ROUTED))
    assert both / ROUTED == pytest.approx(0.01, abs=0.005)


@given(st.integers(0, 12), st.integers(1, 12), st.integers(0, 12), st.integers(1, 12))
def test_chance_is_the_tail_of_all_ways_to_deal_the_bad_ones(
    bad: int, total: int, bad_beside: int, total_beside: int
) -> None:
    bad, bad_beside = min(bad, total), min(bad_beside, total_beside)
    bad_all, all_ = bad + bad_beside, total + total_beside
    ways = sum(
        comb(total, i) * comb(total_beside, bad_all - i)
        for i in range(bad, min(total, bad_all) + 1)
        if bad_all - i <= total_beside
    )
    exact = ways / comb(all_, bad_all)
    found = chance(bad, total, bad_beside, total_beside)
    if bad * all_ <= total * bad_all:
        assert found == 1.0, "no more than its part of the bad ones"
    else:
        assert found == pytest.approx(exact, rel=1e-4)


def test_chance_of_very_many() -> None:
    assert 0.0 < chance(5_300, 100_000, 15_000, 300_000) < 0.01
    assert chance(100_000, 100_000, 0, 300_000) == 0.0


# Judgement.


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How one release serves: searches take a log-normal time around `usual_s`."""

    usual_s: float = 0.005
    spread: float = 0.5
    fails: float = 0.0
    hangs: float = 0.0
    """The share that waits for ever."""


Conduct = Callable[[float], Serving]


def always(serving: Serving) -> Conduct:
    return lambda now_s: serving


def from_then_on(fault_s: float, serving: Serving, before: Serving | None = None) -> Conduct:
    return lambda now_s: serving if now_s >= fault_s else before or Serving()


class Traffic:
    """A gateway's requests at a steady mean rate, reported every two seconds."""

    def __init__(
        self, seed: int, *, per_s: float, percent: float, canary: Conduct, current: Conduct
    ) -> None:
        self._rng = random.Random(seed)
        self._per_s = per_s
        self._percent = percent
        self._conduct = {True: canary, False: current}
        self._hanging: list[tuple[float, bool]] = []
        self.board = CanaryBoard(release=2)

    def first_fault_s(self, until_s: float) -> tuple[float, str] | None:
        now_s = 0.0
        while now_s < until_s:
            self.board.take(self._report(now_s, now_s + REPORT_S), now_s + REPORT_S)
            now_s += REPORT_S
            if (reason := self.board.fault(now_s)) is not None:
                return now_s, reason
        return None

    def _report(self, from_s: float, to_s: float) -> OutcomeReport:
        ended, waiting = Sides(), Sides()
        for at_s in self._arrivals(from_s, to_s):
            is_canarys = self._rng.random() * 100 < self._percent
            serving = self._conduct[is_canarys](at_s)
            fate = self._rng.random()
            if fate < serving.hangs:
                self._hanging.append((at_s, is_canarys))
                continue
            tally = ended.of(is_canarys)
            tally.ended[Work.SEARCH] += 1
            if fate < serving.hangs + serving.fails:
                tally.failed[Work.SEARCH] += 1
                continue
            took_s = serving.usual_s * self._rng.lognormvariate(0.0, serving.spread)
            tally.times[Measure.VECTOR_SEARCH, class_of(took_s)] += 1
        for at_s, is_canarys in self._hanging:
            time_class = class_of(to_s - at_s)
            waiting.of(is_canarys).times[Measure.VECTOR_SEARCH, time_class] += 1
        return OutcomeReport(reporter="g", release=2, ended=ended, waiting=waiting)

    def _arrivals(self, from_s: float, to_s: float) -> Iterable[float]:
        at_s = from_s + self._rng.expovariate(self._per_s)
        while at_s < to_s:
            yield at_s
            at_s += self._rng.expovariate(self._per_s)


FAULTS = {
    "all fail": (Serving(fails=1.0), Serving()),
    "half fail": (Serving(fails=0.5), Serving()),
    "all hang": (Serving(hangs=1.0), Serving()),
    "ten times as slow": (Serving(usual_s=0.2), Serving(usual_s=0.02)),
    "a slow model": (Serving(usual_s=6.0), Serving(usual_s=1.0)),
    "half take seconds": (Serving(hangs=0.5), Serving()),
    "all fail where some do anyway": (Serving(fails=1.0), Serving(fails=0.05)),
}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("faulty", "healthy"), FAULTS.values(), ids=list(FAULTS))
def test_a_fault_is_seen_within_half_a_minute(faulty: Serving, healthy: Serving, seed: int) -> None:
    begins_s = 60.0
    traffic = Traffic(
        seed,
        per_s=5.0,
        percent=25.0,
        canary=from_then_on(begins_s, faulty, before=healthy),
        current=always(healthy),
    )
    found = traffic.first_fault_s(begins_s + 120.0)
    assert found is not None
    assert begins_s < found[0] <= begins_s + 28.0, found


@pytest.mark.parametrize("percent", [1.0, 5.0, 50.0, 95.0])
def test_any_share_shows_a_fault_in_time(percent: float) -> None:
    traffic = Traffic(
        1, per_s=20.0, percent=percent, canary=always(Serving(fails=1.0)), current=always(Serving())
    )
    found = traffic.first_fault_s(300.0)
    assert found is not None
    assert found[0] <= 10.0 + 15 * 100 / (20.0 * percent)


GOOD = {
    "the same": (Serving(), Serving()),
    "both fail at times": (Serving(fails=0.1), Serving(fails=0.1)),
    "both are ill": (Serving(fails=0.6, hangs=0.1), Serving(fails=0.6, hangs=0.1)),
    "all over the place": (Serving(spread=2.0), Serving(spread=2.0)),
    "better": (Serving(usual_s=0.05), Serving(usual_s=0.2, fails=0.1)),
    "somewhat slower": (Serving(usual_s=0.13), Serving(usual_s=0.1)),
    "a few milliseconds slower": (Serving(usual_s=0.008), Serving(usual_s=0.002)),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("canary", "current"), GOOD.values(), ids=list(GOOD))
def test_chance_does_not_roll_back(canary: Serving, current: Serving, seed: int) -> None:
    traffic = Traffic(
        seed, per_s=20.0, percent=25.0, canary=always(canary), current=always(current)
    )
    assert traffic.first_fault_s(300.0) is None


def test_a_canary_that_is_better_beside_a_release_that_is_ill_goes_on() -> None:
    ill = Serving(fails=0.5, usual_s=0.5)
    traffic = Traffic(3, per_s=20.0, percent=25.0, canary=always(Serving()), current=always(ill))
    assert traffic.first_fault_s(120.0) is None


def test_a_hiccup_of_seconds_is_no_fault() -> None:
    def stumbles(now_s: float) -> Serving:
        return Serving(fails=1.0) if 60.0 <= now_s < 62.0 else Serving()

    traffic = Traffic(4, per_s=20.0, percent=25.0, canary=stumbles, current=always(Serving()))
    assert traffic.first_fault_s(240.0) is None


def test_few_requests_are_no_ground_to_judge_on() -> None:
    traffic = Traffic(
        5, per_s=0.5, percent=5.0, canary=always(Serving(fails=1.0)), current=always(Serving())
    )
    assert traffic.first_fault_s(200.0) is None


def test_the_reason_is_told_in_numbers() -> None:
    failing = Traffic(
        6, per_s=20.0, percent=25.0, canary=always(Serving(fails=1.0)), current=always(Serving())
    )
    found = failing.first_fault_s(60.0)
    assert found is not None
    assert "searches failed (current release: 0 of" in found[1]
    slow = Traffic(
        7, per_s=20.0, percent=25.0, canary=always(Serving(usual_s=1)), current=always(Serving())
    )
    found = slow.first_fault_s(60.0)
    assert found is not None
    assert "searches by vector took more than" in found[1]


def test_a_gateway_that_is_gone_leaves_nobody_waiting() -> None:
    board = CanaryBoard(release=2)
    current = Sides()
    current.current.times[Measure.VECTOR_SEARCH, class_of(0.005)] = 100
    board.take(OutcomeReport(reporter="a", release=2, ended=current, waiting=Sides()), 0.0)
    waiting = Sides()
    for age_s in (3.0, 6.0, 9.0, 12.0):
        waiting.canary.times[Measure.VECTOR_SEARCH, class_of(age_s)] = 10
    lost = OutcomeReport(reporter="gone", release=2, ended=Sides(), waiting=waiting)
    board.take(lost, 14.0)
    assert board.fault(14.0) is not None
    board.take(OutcomeReport(reporter="a", release=2, ended=Sides(), waiting=Sides()), 24.0)
    assert board.fault(24.0) is None
