"""The replicas that can answer the same question: asked in the order of weights, one after the
other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

from cluster.balancing import OutcomeWeights
from cluster.clock import Deadline
from cluster.errors import DeadlineExceeded, RaygionError


class Replica(Protocol):
    @property
    def replica_id(self) -> str: ...


R = TypeVar("R", bound=Replica)
T = TypeVar("T")


class ReplicaSet(Generic[R]):
    """The replicas of one shard (or one embedder), with weights that learn from every outcome."""

    def __init__(self, replicas: Sequence[R], weights: OutcomeWeights) -> None:
        self._replicas = {replica.replica_id: replica for replica in replicas}
        self._weights = weights

    async def ask(
        self,
        call: Callable[[R, float], Awaitable[T]],
        deadline: Deadline,
        *,
        learn_speed: bool = True,
    ) -> T:
        """The answer of the first replica that gives one; each is asked at most once.

        `call(replica, timeout_s)` makes the request. The time left is shared out evenly among the
        replicas left, so that one that hangs leaves the others their chance. `learn_speed` is False
        for requests whose duration does not compare with the others'. Raises the last error when
        all fail, and at once an error that is the caller's own (not retryable), since every replica
        would say the same.
        """
        last_error: RaygionError = DeadlineExceeded("time ran out before a replica was asked")
        order = self._weights.order(list(self._replicas))
        for position, replica_id in enumerate(order):
            timeout_s = deadline.remaining_s() / (len(order) - position)
            if timeout_s <= 0:
                break
            started_s = deadline.clock.monotonic_s()
            try:
                async with asyncio.timeout(timeout_s):
                    answer = await call(self._replicas[replica_id], timeout_s)
            except TimeoutError:
                last_error = DeadlineExceeded(f"replica {replica_id} did not answer in time")
            except RaygionError as error:
                if not error.retryable:
                    raise
                last_error = error
            else:
                if learn_speed:
                    took_s = deadline.clock.monotonic_s() - started_s
                    self._weights.succeeded(replica_id, took_s)
                return answer
            self._weights.failed(replica_id)
        raise last_error
