"""Weights of replicas: tables, bounds that always hold, and simulated traffic."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.balance.weights import BalancingSettings, OutcomeWeights

SETTINGS = BalancingSettings()


class SimTime:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def make_weights(
    seed: int = 1, settings: BalancingSettings = SETTINGS
) -> tuple[OutcomeWeights, SimTime]:
    time = SimTime()
    return OutcomeWeights(now_s=time, rng=random.Random(seed), settings=settings), time


def test_an_unknown_replica_weighs_one() -> None:
    weights, _ = make_weights()
    assert weights.weight("new") == 1.0


def test_a_failure_lowers_at_once_and_successes_raise_again() -> None:
    weights, _ = make_weights()
    weights.succeeded("a", 0.1)
    weights.failed("a")
    low = weights.weight("a")
    assert low == pytest.approx(SETTINGS.failure_factor)
    seen = [low]
    for _ in range(12):
        weights.succeeded("a", 0.1)
        seen.append(weights.weight("a"))
    assert seen == sorted(seen)
    assert seen[-1] > 0.95


def test_failures_never_take_a_weight_below_the_least() -> None:
    weights, _ = make_weights()
    for _ in range(100):
        weights.failed("a")
    assert weights.weight("a") == SETTINGS.weight_min


@pytest.mark.parametrize(
    ("slower", "weight"),
    [
        (1.0, 1.0),
        (1.4, 1.0),
        (1.5, 1.0),
        (3.0, 0.1768),
        (6.0, 0.03125),
        (10.0, SETTINGS.weight_min),
        (1000.0, SETTINGS.weight_min),
    ],
)
def test_speed_is_judged_against_the_fastest_peer(slower: float, weight: float) -> None:
    weights, _ = make_weights()
    weights.succeeded("fast", 0.1)
    weights.succeeded("slow", 0.1 * slower)
    assert weights.weight("fast") == 1.0
    assert weights.weight("slow") == pytest.approx(weight, rel=1e-3)


def test_one_slow_answer_among_many_is_forgiven_by_the_next_ones() -> None:
    weights, _ = make_weights()
    for _ in range(20):
        weights.succeeded("a", 0.1)
        weights.succeeded("b", 0.1)
    weights.succeeded("a", 1.0)
    assert 0.1 < weights.weight("a") < 0.5
    for _ in range(6):
        weights.succeeded("a", 0.1)
    assert weights.weight("a") > 0.95


def test_silence_forgives_slowly() -> None:
    weights, time = make_weights()
    weights.failed("a")
    before = weights.weight("a")
    time.now_s += SETTINGS.recovery_half_life_s
    assert math.log(weights.weight("a")) == pytest.approx(math.log(before) / 2)
    time.now_s += 3600.0
    assert weights.weight("a") > 0.999


def test_a_departed_replica_is_forgotten_and_no_longer_the_standard() -> None:
    weights, _ = make_weights()
    weights.succeeded("fast", 0.01)
    weights.succeeded("slow", 1.0)
    weights.failed("slow")
    weights.retain(["slow"])
    assert weights.weight("fast") == 1.0
    assert weights.weight("slow") == pytest.approx(SETTINGS.failure_factor)


def test_memory_is_bounded_without_retain() -> None:
    settings = BalancingSettings(replicas_max=3)
    weights, time = make_weights(settings=settings)
    for number in range(10):
        time.now_s += 0.001
        weights.failed(f"r{number}")
    known = [n for n in range(10) if weights.weight(f"r{n}") < 1.0]
    assert known == [7, 8, 9]


def test_the_order_is_reproducible_from_the_seed() -> None:
    orders = []
    for _ in range(2):
        weights, _ = make_weights(seed=7)
        weights.failed("b")
        orders.append([weights.order(["a", "b", "c"]) for _ in range(50)])
    assert orders[0] == orders[1]


def test_first_places_follow_the_weights() -> None:
    weights, _ = make_weights()
    weights.failed("b")  # weight 0.2
    firsts = Counter(weights.order(["a", "b", "c"])[0] for _ in range(20_000))
    assert firsts["b"] / 20_000 == pytest.approx(0.2 / 2.2, abs=0.01)
    assert firsts["a"] / 20_000 == pytest.approx(1.0 / 2.2, abs=0.015)


def test_what_a_breaker_holds_back_comes_last_and_is_not_left_out() -> None:
    weights, time = make_weights()
    for _ in range(SETTINGS.breaker.failures_in_row_max):
        assert weights.passes("b")
        weights.failed("b")
    assert not weights.passes("b")
    for _ in range(200):
        order = weights.order(["a", "b", "c"])
        assert sorted(order) == ["a", "b", "c"]
        assert order[-1] == "b"
    assert weights.order(["b"]) == ["b"]
    time.now_s += 60.0
    assert weights.passes("b")
    assert weights.began("b")
    assert all(weights.order(["a", "b", "c"])[-1] == "b" for _ in range(50))
    weights.inconclusive("b", probe=True)
    assert any(weights.order(["a", "b", "c"])[0] == "b" for _ in range(50))


def test_speeds_are_judged_among_those_that_are_to_be_ordered() -> None:
    weights, _ = make_weights()
    for replica_id, latency_s in [("local", 0.0001), ("near", 0.001), ("far", 0.01)]:
        weights.succeeded(replica_id, latency_s)
    firsts = Counter(weights.order(["near", "far"])[0] for _ in range(2000))
    assert firsts["far"] < 0.03 * 2000


def test_good_probes_make_a_replica_one_of_many_again() -> None:
    weights, time = make_weights()
    for _ in range(SETTINGS.breaker.failures_in_row_max):
        weights.failed("a")
    time.now_s += 60.0
    for _ in range(SETTINGS.breaker.good_probes):
        weights.succeeded("a", 0.1, probe=weights.began("a"))
    assert not weights.began("a")
    assert weights.passes("a")


def test_a_departed_replica_leaves_no_breaker_behind() -> None:
    weights, _ = make_weights()
    for _ in range(SETTINGS.breaker.failures_in_row_max):
        weights.failed("a")
    weights.retain([])
    assert weights.passes("a")
    assert not weights.began("a")
    weights.inconclusive("a", probe=True)


Outcome = tuple[str, str, float]
outcomes = st.lists(
    st.tuples(
        st.sampled_from("abcd"),
        st.sampled_from(["succeeded", "failed", "silence"]),
        st.floats(min_value=0.0, max_value=1e6),
    ),
    max_size=60,
)


@given(outcomes, st.integers(0, 2**32))
def test_weights_stay_in_bounds_and_orders_are_permutations(
    story: list[Outcome], seed: int
) -> None:
    weights, time = make_weights(seed)
    for replica_id, what, amount in story:
        if what == "succeeded":
            weights.succeeded(replica_id, amount)
        elif what == "failed":
            weights.failed(replica_id)
        else:
            time.now_s += amount
        for known in "abcd":
            assert SETTINGS.weight_min <= weights.weight(known) <= 1.0
    for count in range(5):
        asked = list("abcd"[:count])
        assert sorted(weights.order(asked)) == asked


@given(outcomes, st.sampled_from("abcd"))
def test_a_failure_never_raises_a_weight(story: list[Outcome], replica_id: str) -> None:
    weights, time = make_weights()
    for known, what, amount in story:
        if what == "succeeded":
            weights.succeeded(known, amount)
        elif what == "failed":
            weights.failed(known)
        else:
            time.now_s += amount
    before = weights.weight(replica_id)
    weights.failed(replica_id)
    assert weights.weight(replica_id) <= before + 1e-12


@dataclass
class Traffic:
    """Queries at a steady rate; an outcome is known only when the answer comes back."""

    weights: OutcomeWeights
    time: SimTime
    rate: float
    answer: Callable[[str, float], tuple[float, bool]]
    replicas: list[str]
    rng: random.Random

    def run(self, seconds: float) -> Counter[str]:
        """Asks for `seconds` and counts who was asked."""
        asked: Counter[str] = Counter()
        pending: list[tuple[float, str, float, bool, bool]] = []
        end_s = self.time.now_s + seconds
        while self.time.now_s < end_s:
            while pending and pending[0][0] <= self.time.now_s:
                _, replica_id, latency_s, good, probe = heapq.heappop(pending)
                if good:
                    self.weights.succeeded(replica_id, latency_s, probe=probe)
                else:
                    self.weights.failed(replica_id, probe=probe)
            first = self.weights.order(self.replicas)[0]
            asked[first] += 1
            latency_s, good = self.answer(first, self.time.now_s)
            probe = self.weights.began(first)
            heapq.heappush(pending, (self.time.now_s + latency_s, first, latency_s, good, probe))
            self.time.now_s += self.rng.expovariate(self.rate)
        return asked


def jittered(base_s: float, rng: random.Random) -> float:
    return base_s * rng.lognormvariate(0.0, 0.3)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_replicas", [2, 3, 5])
def test_equal_replicas_share_equally(num_replicas: int, seed: int) -> None:
    weights, time = make_weights(seed)
    rng = random.Random(seed + 100)
    replicas = [f"r{n}" for n in range(num_replicas)]
    traffic = Traffic(weights, time, 50.0, lambda r, t: (jittered(0.05, rng), True), replicas, rng)
    asked = traffic.run(60.0)
    for replica_id in replicas:
        assert asked[replica_id] / asked.total() == pytest.approx(1 / num_replicas, rel=0.15)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rate", [5.0, 50.0])
def test_a_tenfold_slower_replica_falls_under_five_percent_and_comes_back(
    rate: float, seed: int
) -> None:
    weights, time = make_weights(seed)
    rng = random.Random(seed + 100)
    slow = {"factor": 1.0}

    def answer(replica_id: str, _: float) -> tuple[float, bool]:
        factor = slow["factor"] if replica_id == "r1" else 1.0
        return jittered(0.05 * factor, rng), True

    traffic = Traffic(weights, time, rate, answer, ["r0", "r1"], rng)
    traffic.run(30.0)
    slow["factor"] = 10.0
    traffic.run(max(3.0, 20.0 / rate))
    asked = traffic.run(1500.0 / rate)
    assert asked["r1"] / asked.total() < 0.05
    slow["factor"] = 1.0
    traffic.run(30.0)
    asked = traffic.run(30.0)
    assert asked["r1"] / asked.total() > 0.4


@pytest.mark.parametrize("seed", range(5))
def test_a_failing_replica_loses_its_share_at_once_and_regains_it(seed: int) -> None:
    weights, time = make_weights(seed)
    rng = random.Random(seed + 100)
    failing = {"r1": False}

    def answer(replica_id: str, _: float) -> tuple[float, bool]:
        return jittered(0.05, rng), not failing.get(replica_id, False)

    traffic = Traffic(weights, time, 20.0, answer, ["r0", "r1", "r2"], rng)
    traffic.run(10.0)
    failing["r1"] = True
    traffic.run(1.0)
    asked = traffic.run(60.0)
    assert asked["r1"] / asked.total() < 0.05
    failing["r1"] = False
    traffic.run(30.0)
    asked = traffic.run(30.0)
    assert asked["r1"] / asked.total() > 0.25


def test_when_all_fail_all_are_still_asked() -> None:
    weights, time = make_weights()
    rng = random.Random(3)
    traffic = Traffic(weights, time, 50.0, lambda r, t: (0.01, False), ["r0", "r1"], rng)
    asked = traffic.run(20.0)
    assert asked["r0"] / asked.total() == pytest.approx(0.5, abs=0.1)
