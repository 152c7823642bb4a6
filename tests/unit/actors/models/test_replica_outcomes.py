"""From the outcome of attempts to the weights of replicas."""

from __future__ import annotations

import random
import threading

import pytest

from actors.models import replica_outcomes
from actors.models.replica_outcomes import (
    ATTEMPTS_MAX,
    NOMINAL_TOKENS,
    PACE_TOKENS_MIN,
    PATIENCE,
    ReplicaOutcomes,
    outcomes_of,
)
from cluster.balance.circuit_breaker import DEFAULT_BREAKER
from cluster.errors import DeadlineExceeded, Overloaded, Unavailable

BROKE_OFF = Unavailable("broke off")
OUT_OF_TIME = DeadlineExceeded("no time is left")


class SimClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return int(self.now_s * 1000)


class Caller:
    """Makes attempts one after the other."""

    def __init__(self) -> None:
        self.clock = SimClock()
        self.outcomes = ReplicaOutcomes(clock=self.clock, rng=random.Random(1))
        self.attempts = 0

    def routed(self, replica_id: str) -> str:
        self.attempts += 1
        attempt_id = f"attempt-{self.attempts}"
        self.outcomes.routed(attempt_id, replica_id)
        return attempt_id

    def answered(
        self,
        replica_id: str,
        *,
        first_token_s: float = 0.1,
        tokens: int = 50,
        token_s: float = 0.01,
    ) -> None:
        self.outcomes.answered(
            self.routed(replica_id),
            first_token_s=first_token_s,
            later_tokens=tokens,
            later_s=tokens * token_s,
        )

    def weight(self, replica_id: str) -> float:
        return self.outcomes.weights([replica_id])[replica_id]


@pytest.fixture
def caller() -> Caller:
    return Caller()


def test_a_long_answer_is_not_a_slow_one(caller: Caller) -> None:
    for _ in range(10):
        caller.answered("a", tokens=40)
        caller.answered("b", tokens=4000)
    assert caller.weight("a") == caller.weight("b") == 1.0


def test_short_answers_are_compared_at_the_usual_pace(caller: Caller) -> None:
    caller.answered("a", tokens=100)
    for _ in range(10):
        caller.answered("a", tokens=100)
        caller.answered("b", tokens=PACE_TOKENS_MIN - 1, token_s=1.0)
    assert caller.weight("b") == 1.0


@pytest.mark.parametrize("slow", [{"first_token_s": 5.0}, {"token_s": 0.1}])
def test_a_late_first_token_and_a_slow_pace_both_lower(
    caller: Caller, slow: dict[str, float]
) -> None:
    for _ in range(10):
        caller.answered("a")
        caller.answered("b", **slow)  # type: ignore[arg-type]
    assert caller.weight("a") == 1.0
    assert caller.weight("b") < 0.1


def test_the_avoided_replica_comes_last(caller: Caller) -> None:
    for _ in range(50):
        assert caller.outcomes.order(["a", "b", "c"], avoid_replica="a")[-1] == "a"
    assert sorted(caller.outcomes.order(["a", "b"], avoid_replica="gone")) == ["a", "b"]


def test_a_failure_is_counted_once(caller: Caller) -> None:
    attempt_id = caller.routed("a")
    assert caller.outcomes.replica_of(attempt_id) == "a"
    caller.outcomes.broke(attempt_id, BROKE_OFF, first_token_s=None)
    weight = caller.weight("a")
    assert weight < 1.0
    caller.outcomes.broke(attempt_id, BROKE_OFF, first_token_s=None)
    caller.outcomes.broke(attempt_id, OUT_OF_TIME, first_token_s=None)
    assert caller.weight("a") == weight
    assert caller.outcomes.replica_of(attempt_id) is None


def test_an_attempt_that_reached_no_replica_changes_nothing(caller: Caller) -> None:
    caller.outcomes.broke("never routed", BROKE_OFF, first_token_s=None)
    caller.outcomes.answered("never routed", first_token_s=1.0, later_tokens=9, later_s=1.0)
    assert caller.outcomes.waited_s("never routed") == 0.0
    assert caller.weight("a") == 1.0


@pytest.mark.parametrize(("times_usual", "lowers"), [(PATIENCE / 2, False), (PATIENCE * 2, True)])
def test_an_impatient_caller_does_not_lower_but_a_long_wait_does(
    caller: Caller, times_usual: float, lowers: bool
) -> None:
    caller.answered("a", first_token_s=0.1)
    attempt_id = caller.routed("a")
    caller.clock.now_s += 0.1 * times_usual
    caller.outcomes.broke(attempt_id, OUT_OF_TIME, first_token_s=None)
    assert (caller.weight("a") < 1.0) is lowers


def test_a_wait_in_vain_lowers_when_nothing_is_usual_yet(caller: Caller) -> None:
    caller.outcomes.broke(caller.routed("a"), OUT_OF_TIME, first_token_s=None)
    assert caller.weight("a") < 1.0


def open_breaker(caller: Caller, replica_id: str) -> None:
    for _ in range(DEFAULT_BREAKER.failures_in_row_max):
        caller.outcomes.broke(caller.routed(replica_id), BROKE_OFF, first_token_s=None)


def first_in_line(caller: Caller, replica_id: str) -> int:
    """How often of a hundred draws of two it is offered first."""
    orders = [caller.outcomes.order(["a", "b"]) for _ in range(100)]
    assert all(sorted(order) == ["a", "b"] for order in orders)
    return sum(order[0] == replica_id for order in orders)


def test_a_replica_with_an_open_breaker_is_offered_last(caller: Caller) -> None:
    open_breaker(caller, "a")
    assert first_in_line(caller, "a") == 0
    assert caller.outcomes.order(["a", "b", "c"], avoid_replica="b")[-1] == "b"
    caller.clock.now_s += 60.0
    assert first_in_line(caller, "a") > 10
    for _ in range(DEFAULT_BREAKER.good_probes):
        attempt_id = caller.routed("a")
        assert first_in_line(caller, "a") == 0  # One probe at a time.
        caller.outcomes.answered(attempt_id, first_token_s=0.1, later_tokens=0, later_s=0.0)
    assert first_in_line(caller, "a") > 10


@pytest.mark.parametrize("how", ["forgotten", "left early", "routed anew", "too long ago"])
def test_a_probe_whose_end_tells_nothing_makes_room_for_the_next(caller: Caller, how: str) -> None:
    caller.answered("b")
    open_breaker(caller, "a")
    caller.clock.now_s += 60.0
    attempt_id = caller.routed("a")
    assert first_in_line(caller, "a") == 0
    if how == "forgotten":
        caller.outcomes.broke(attempt_id, Overloaded("full"), first_token_s=None)
    elif how == "left early":
        caller.outcomes.broke(attempt_id, OUT_OF_TIME, first_token_s=None)
    elif how == "routed anew":
        caller.outcomes.routed(attempt_id, "b")
    else:
        for _ in range(ATTEMPTS_MAX):
            caller.routed("b")
    assert first_in_line(caller, "a") > 10


def test_forgotten_attempts_and_departed_replicas_take_no_memory(caller: Caller) -> None:
    first = caller.routed("a")
    for _ in range(ATTEMPTS_MAX):
        caller.routed("a")
    assert caller.outcomes.replica_of(first) is None
    caller.outcomes.lost("a")
    assert caller.weight("a") < 1.0
    caller.outcomes.retain(["b"])
    assert caller.weight("a") == 1.0


def test_all_callers_of_an_application_share_its_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_outcomes, "_by_app", {})
    assert outcomes_of("x") is outcomes_of("x")
    assert outcomes_of("x") is not outcomes_of("y")


def test_router_and_callers_may_be_on_different_threads() -> None:
    outcomes = ReplicaOutcomes()

    def call(name: str) -> None:
        for number in range(300):
            attempt_id = f"{name}-{number}"
            outcomes.routed(attempt_id, outcomes.order(["a", "b"])[0])
            outcomes.answered(attempt_id, first_token_s=0.1, later_tokens=0, later_s=0.0)
            outcomes.retain(["a", "b"])

    threads = [threading.Thread(target=call, args=(f"t{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.weights(["a", "b"]) == {"a": 1.0, "b": 1.0}


def test_constants_fit_together() -> None:
    assert PACE_TOKENS_MIN <= NOMINAL_TOKENS
