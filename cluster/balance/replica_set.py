"""The replicas that can answer the same question: asked one after the other until one answers.

    preferred, then drawn by weight; open breakers, then the reserve, last
        |
        v
    ask a replica --- answer ----------------------------------------------> done
        |  |                                                                  ^
        |  +-- error, or its share of the time is over --> ask the next one --+
        |                                                                     |
        +-- no answer within the expected latency --> hedge: ask the next one too;
                                                      the first answer wins --+

A replica that a hedge overtakes has failed to answer: it started earlier, with the same question.
That is how a half-alive replica, which lives but does not work, is found by its work.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

from cluster.balance.hedging import DEFAULT_HEDGING, ExpectedLatency, HedgeBudget, HedgeSettings
from cluster.balance.verdicts import Verdict, replica_verdict
from cluster.balance.weights import OutcomeWeights
from cluster.clock import Deadline
from cluster.errors import DeadlineExceeded, RaygionError, Unavailable


class Replica(Protocol):
    @property
    def replica_id(self) -> str: ...


R = TypeVar("R", bound=Replica)
T = TypeVar("T")


class ReplicaSet(Generic[R]):
    """The replicas of one shard (or one embedder), with weights that learn from every outcome.

    `preferred`, one of `replicas`, is asked first for as long as its breaker lets requests pass;
    `reserve`, another one of them, is asked last.
    """

    def __init__(
        self,
        replicas: Sequence[R],
        weights: OutcomeWeights,
        *,
        preferred: R | None = None,
        reserve: R | None = None,
        hedging: HedgeSettings = DEFAULT_HEDGING,
    ) -> None:
        self._replicas = {replica.replica_id: replica for replica in replicas}
        self._weights = weights
        self._budget = HedgeBudget(hedging)
        # By `learn_speed`: what does not compare with the rest has a latency of its own.
        self._expected = {compares: ExpectedLatency(hedging) for compares in (True, False)}
        self._ids = list(self._replicas)
        self._dispensable: set[_Attempt] = set()
        """Attempts under way for callers that can do without the answer."""
        self._preferred = preferred.replica_id if preferred is not None else None
        self._reserve = [] if reserve is None else [reserve.replica_id]
        assert {self._preferred, *self._reserve} <= {None, *self._ids}
        self._drawn = [known for known in self._ids if known not in self._reserve]
        self._others = [known for known in self._drawn if known != self._preferred]

    async def ask(
        self,
        call: Callable[[R, float], Awaitable[T]],
        deadline: Deadline,
        *,
        learn_speed: bool = True,
        last_resort: bool = True,
    ) -> T:
        """The answer of the first replica that gives one; each is asked at most once.

        `call(replica, timeout_s)` makes the request, and is cancelled once its answer is no longer
        wanted. The time left is shared out evenly among the replicas left, so that one that hangs
        leaves the others their chance; nothing is sent after the deadline. `learn_speed` is False
        for requests whose duration does not compare with the others'. `last_resort` is False for a
        caller that can do without the answer: no replica is asked whose breaker is open, and once
        the breakers of all are open, the question ends at once. Raises the last error when all
        fail, and at once an error that is the caller's own (not retryable), since every replica
        would say the same.
        """
        self._budget.asked()
        return await _Question(self, call, deadline, learn_speed, last_resort).answer()

    def late_after_s(self) -> float | None:
        """The time after which an answer is late; None while too little is known."""
        return self._expected[True].hedge_delay_s()

    def _failed(self, replica_id: str, *, probe: bool) -> None:
        self._weights.failed(replica_id, probe=probe)
        if self._dispensable and not any(map(self._weights.passes, self._ids)):
            for attempt in self._dispensable:
                attempt.call_off(excused=True)

    def _order(self) -> list[str]:
        if self._preferred is None or not self._weights.passes(self._preferred):
            return [*self._weights.order(self._drawn), *self._reserve]
        return [self._preferred, *self._weights.order(self._others), *self._reserve]


class _Attempt:
    """One request to one replica, which has until `ends_s` on the clock of the deadline."""

    __slots__ = ("ends_s", "excused", "limit", "replica_id")

    def __init__(self, replica_id: str, ends_s: float) -> None:
        self.replica_id = replica_id
        self.ends_s = ends_s
        self.excused = False
        self.limit: asyncio.Timeout | None = None

    def call_off(self, *, excused: bool) -> None:
        """Ends it as if its time were over; excused, it is not the replica's failure."""
        if self.limit is not None and not self.limit.expired():
            self.excused = excused
            self.limit.reschedule(asyncio.get_running_loop().time())


class _Question(Generic[R, T]):
    """One question on its way to an answer, and the replicas that are left to ask."""

    def __init__(
        self,
        replicas: ReplicaSet[R],
        call: Callable[[R, float], Awaitable[T]],
        deadline: Deadline,
        learn_speed: bool,
        last_resort: bool,
    ) -> None:
        self._set = replicas
        self._call = call
        self._deadline = deadline
        self._learn_speed = learn_speed
        self._last_resort = last_resort
        self._expected = replicas._expected[learn_speed]
        self._remaining = deque(replicas._order())
        self._hedge: asyncio.Task[T] | None = None

    async def answer(self) -> T:
        last_error: RaygionError | None = None
        while attempt := self._next():
            try:
                return await self._race(attempt)
            except RaygionError as error:
                if not error.retryable:
                    raise
                last_error = error
        raise last_error or self._nobody_asked()

    def _nobody_asked(self) -> RaygionError:
        if self._deadline.expired():
            return DeadlineExceeded("time ran out before a replica was asked")
        return Unavailable("there is no replica, or each of them has failed too often to be asked")

    def _next(self) -> _Attempt | None:
        """The next replica with its share of the time; None when one or the other is used up."""
        if not self._last_resort:
            self._remaining = deque(filter(self._set._weights.passes, self._remaining))
        remaining_s = self._deadline.remaining_s()
        if not self._remaining or remaining_s <= 0:
            return None
        ends_s = self._deadline.clock.monotonic_s() + remaining_s / len(self._remaining)
        return _Attempt(self._remaining.popleft(), ends_s)

    async def _race(self, first: _Attempt) -> T:
        """The answer to this attempt, or to the hedge that is sent when it is late."""
        delay_s = self._expected.hedge_delay_s() if self._remaining else None
        if delay_s is None:
            return await self._make(first)
        # A timer, since a task for the first attempt would cost more than all the rest in here.
        timer = asyncio.get_running_loop().call_later(delay_s, self._send_hedge, first)
        try:
            return await self._make(first)
        except RaygionError as error:
            if self._hedge is None or not error.retryable:
                raise
            return await self._hedge
        finally:
            timer.cancel()
            if self._hedge is not None:
                self._hedge.cancel()
                self._hedge = None

    def _send_hedge(self, first: _Attempt) -> None:
        if not self._set._weights.passes(self._remaining[0]) or not self._set._budget.take():
            return
        attempt = self._next()
        if attempt is None:
            return

        def ended(hedge: asyncio.Task[T]) -> None:
            if hedge.cancelled():
                return
            error = hedge.exception()
            if error is None:
                first.call_off(excused=False)
            elif not (isinstance(error, RaygionError) and error.retryable):
                first.call_off(excused=True)

        self._hedge = asyncio.create_task(self._make(attempt))
        self._hedge.add_done_callback(ended)

    async def _make(self, attempt: _Attempt) -> T:
        """Makes the request and learns from how it ends, whichever way that is."""
        replica_id, weights = attempt.replica_id, self._set._weights
        now_s = self._deadline.clock.monotonic_s
        sent_s = now_s()
        timeout_s = attempt.ends_s - sent_s
        if timeout_s <= 0:
            raise DeadlineExceeded(f"time ran out before replica {replica_id} was asked")
        probe = weights.began(replica_id)
        try:
            if not self._last_resort and not probe:
                self._set._dispensable.add(attempt)
            answer = await self._answered(attempt, timeout_s)
        except BaseException as error:
            # A caller with less patience than an answer usually takes must not ruin the weights.
            hurried = attempt.excused or timeout_s < (self._expected.at_most_s() or 0.0)
            if replica_verdict(error, hurried=hurried) is Verdict.FAILED:
                self._set._failed(replica_id, probe=probe)
            else:
                weights.inconclusive(replica_id, probe=probe)
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(f"replica {replica_id} did not answer in time") from None
            raise
        took_s = now_s() - sent_s
        self._expected.answered(took_s)
        if self._learn_speed:
            weights.succeeded(replica_id, took_s, probe=probe)
        else:
            weights.inconclusive(replica_id, probe=probe)
        return answer

    async def _answered(self, attempt: _Attempt, timeout_s: float) -> T:
        try:
            async with asyncio.timeout(timeout_s) as attempt.limit:
                return await self._call(self._set._replicas[attempt.replica_id], timeout_s)
        finally:
            # From here on nobody can call it off.
            attempt.limit = None
            self._set._dispensable.discard(attempt)
