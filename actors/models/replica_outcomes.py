"""The outcomes that the callers of a Serve deployment in this process have seen of its replicas.

Serve makes one router for every handle, on a thread of its own, and tells it where a call went but
not how it ended; the client knows how it ended but not where it went. They meet here:

    client --- RoutingHint(attempt_id) ---> router: order(), routed()
    client --- answered(), broke() by attempt_id ---> weights ---> router: order()

A generator is judged by the time to its first token and by its pace afterwards, as the time that an
answer of a fixed length would take. So a long answer does not count as a slow one. Weights and
circuit breakers are those of `cluster.balance.weights`, the same as for the replicas of a shard.
"""

from __future__ import annotations

import random
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cluster.balance.verdicts import Verdict, generator_verdict
from cluster.balance.weights import DEFAULT_BALANCING, BalancingSettings, OutcomeWeights
from cluster.clock import SYSTEM_CLOCK, Clock, system_rng

NOMINAL_TOKENS = 32
"""Answers are compared as if they had this many tokens after the first one."""
PACE_TOKENS_MIN = 8
"""Fewer tokens say nothing about the pace; the usual one stands in for it."""
PATIENCE = 3.0
"""Leaving before this multiple of the usual time to the first token is not the replica's fault."""
ATTEMPTS_MAX = 4096
_USUAL_GAIN = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingHint:
    """Travels as the keyword argument `routing` of a call; read by the router, not by the
    replica.
    """

    attempt_id: str
    avoid_replica: str | None = None


@dataclass(frozen=True, slots=True)
class _Attempt:
    replica_id: str
    routed_s: float
    probe: bool


class ReplicaOutcomes:
    """Weights of the replicas of one deployment, fed by attempts. Thread-safe, memory bounded.

    An attempt that never reached a replica, or that was forgotten for its age, changes nothing.
    """

    def __init__(
        self,
        *,
        clock: Clock = SYSTEM_CLOCK,
        rng: random.Random | None = None,
        settings: BalancingSettings = DEFAULT_BALANCING,
    ) -> None:
        self._clock = clock
        rng = rng or system_rng()
        self._weights = OutcomeWeights(now_s=clock.monotonic_s, rng=rng, settings=settings)
        self._attempts: OrderedDict[str, _Attempt] = OrderedDict()
        self._usual_first_token_s: float | None = None
        self._usual_token_s: float | None = None
        self._lock = threading.Lock()

    def order(self, replica_ids: Sequence[str], avoid_replica: str | None = None) -> list[str]:
        """All of `replica_ids`, drawn by weight; after them those that their breaker holds back,
        and the avoided one last.
        """
        with self._lock:
            ordered = self._weights.order(replica_ids)
        if avoid_replica in ordered:
            ordered.remove(avoid_replica)
            ordered.append(avoid_replica)
        return ordered

    def routed(self, attempt_id: str, replica_id: str) -> None:
        """The replica has accepted the attempt."""
        with self._lock:
            if earlier := self._attempts.pop(attempt_id, None):
                self._inconclusive(earlier)
            probe = self._weights.began(replica_id)
            self._attempts[attempt_id] = _Attempt(replica_id, self._clock.monotonic_s(), probe)
            if len(self._attempts) > ATTEMPTS_MAX:
                _, oldest = self._attempts.popitem(last=False)
                self._inconclusive(oldest)

    def replica_of(self, attempt_id: str) -> str | None:
        with self._lock:
            attempt = self._attempts.get(attempt_id)
        return attempt.replica_id if attempt else None

    def waited_s(self, attempt_id: str) -> float:
        """Time since a replica accepted the attempt; 0 when none has."""
        with self._lock:
            attempt = self._attempts.get(attempt_id)
            return self._clock.monotonic_s() - attempt.routed_s if attempt else 0.0

    def answered(
        self, attempt_id: str, *, first_token_s: float, later_tokens: int, later_s: float
    ) -> None:
        """The attempt went well: its first token took `first_token_s` after the replica accepted
        it, and `later_tokens` followed in `later_s`."""
        with self._lock:
            attempt = self._attempts.pop(attempt_id, None)
            if attempt is None:
                return
            token_s = self._usual_token_s
            if later_tokens >= PACE_TOKENS_MIN:
                token_s = later_s / later_tokens
                self._usual_token_s = _smoothed(self._usual_token_s, token_s)
            self._succeeded(attempt, first_token_s, token_s)

    def broke(self, attempt_id: str, error: BaseException, *, first_token_s: float | None) -> None:
        """The attempt ended in an error, or its caller left: after the first token, which had taken
        so long, or before it (None).
        """
        with self._lock:
            attempt = self._attempts.pop(attempt_id, None)
            if attempt is None:
                return
            begun = first_token_s is not None
            match generator_verdict(error, begun=begun, hurried=self._is_hurried(attempt)):
                case Verdict.SUCCEEDED:
                    assert first_token_s is not None
                    self._succeeded(attempt, first_token_s, self._usual_token_s)
                case Verdict.FAILED:
                    self._weights.failed(attempt.replica_id, probe=attempt.probe)
                case Verdict.INCONCLUSIVE:
                    self._inconclusive(attempt)

    def lost(self, replica_id: str) -> None:
        """The replica cannot be reached now."""
        with self._lock:
            self._weights.failed(replica_id)

    def retain(self, replica_ids: Collection[str]) -> None:
        """Forgets the replicas that have departed."""
        with self._lock:
            self._weights.retain(replica_ids)

    def weights(self, replica_ids: Collection[str]) -> dict[str, float]:
        with self._lock:
            return {replica_id: self._weights.weight(replica_id) for replica_id in replica_ids}

    def _is_hurried(self, attempt: _Attempt) -> bool:
        """True while a first token need not have come: a client with an impatient timeout must not
        ruin the weights for all.
        """
        usual_s = self._usual_first_token_s
        waited_s = self._clock.monotonic_s() - attempt.routed_s
        return usual_s is not None and waited_s <= PATIENCE * usual_s

    def _succeeded(self, attempt: _Attempt, first_token_s: float, token_s: float | None) -> None:
        self._usual_first_token_s = _smoothed(self._usual_first_token_s, first_token_s)
        nominal_s = first_token_s + NOMINAL_TOKENS * (token_s or 0.0)
        self._weights.succeeded(attempt.replica_id, nominal_s, probe=attempt.probe)

    def _inconclusive(self, attempt: _Attempt) -> None:
        self._weights.inconclusive(attempt.replica_id, probe=attempt.probe)


def _smoothed(usual_s: float | None, sample_s: float) -> float:
    return sample_s if usual_s is None else usual_s + _USUAL_GAIN * (sample_s - usual_s)


_by_app: dict[str, ReplicaOutcomes] = {}
_by_app_lock = threading.Lock()


def outcomes_of(app_name: str) -> ReplicaOutcomes:
    """The outcomes that this process shares for the Serve application `app_name`.

    A process-wide registry is needed, because Serve constructs the routers and gives them nothing
    of the caller's. It grows by one entry for each application that this process ever called.
    """
    with _by_app_lock:
        return _by_app.setdefault(app_name, ReplicaOutcomes())
