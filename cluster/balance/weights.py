"""The choice of the replica to ask next: weights that follow outcomes, and a random order that
follows weights.

A replica's weight is the product of two things, both in (0, 1]:

- *health*: a failure multiplies it at once, each success closes a part of the gap to 1;
- *speed*: 1 while the replica's smoothed latency stays within a tolerance of the fastest peer's,
  and falling with a power of the ratio beyond it.

A weight below 1 drifts back to 1 while nothing is heard of the replica, and never falls below
`weight_min`. So a replica that was bad is probed by a trickle of real queries, and earns its share
back once they go well.

Beside its weight each replica has a circuit breaker, which stops the trickle, too, while the
replica does nothing but fail: what an open breaker holds back comes last in the order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from cluster.balance.circuit_breaker import DEFAULT_BREAKER, BreakerSettings, CircuitBreaker


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancingSettings:
    """The speed at which weights move. Simulations in the unit tests prove the defaults."""

    weight_min: float = 0.01
    """The least weight: of two replicas, a bad one still gets 1 % of the queries, as probes."""
    failure_factor: float = 0.2
    """Factor by which a failure multiplies health."""
    success_gain: float = 0.3
    """Share of health's gap to 1 that a success closes."""
    latency_tolerance: float = 1.5
    """Multiple of the fastest peer's latency up to which a replica is not slow."""
    slowness_power: float = 2.5
    """Power of the ratio with which the speed falls beyond the tolerance."""
    latency_gain: float = 0.25
    """Least weight of a new sample in the smoothed latency; silence before the sample adds to
    it.
    """
    latency_half_life_s: float = 5.0
    """Length of silence after which the older latency has lost half of its weight."""
    recovery_half_life_s: float = 15.0
    """Length of silence that takes a weight half of the way back to 1, on a logarithmic scale."""
    replicas_max: int = 1024
    """Bound on remembered replicas, for a caller that never says which have departed."""
    breaker: BreakerSettings = DEFAULT_BREAKER

    def __post_init__(self) -> None:
        assert 0.0 < self.weight_min <= 1.0
        assert 0.0 < self.failure_factor < 1.0
        assert 0.0 < self.success_gain <= 1.0
        assert self.latency_tolerance >= 1.0
        assert self.slowness_power > 0.0
        assert 0.0 < self.latency_gain <= 1.0
        assert self.latency_half_life_s > 0.0
        assert self.recovery_half_life_s > 0.0
        assert self.replicas_max >= 1


DEFAULT_BALANCING = BalancingSettings()


@dataclass(slots=True)
class _Record:
    breaker: CircuitBreaker
    health: float
    heard_s: float
    latency_s: float | None


class OutcomeWeights:
    """Weights and breakers of the replicas of one shard or deployment, as one caller sees them.

    The caller reports each request twice: by `began`, and then by one of `succeeded`, `failed` and
    `inconclusive`, to which it passes what `began` returned.

    Guarantees: every weight lies in [weight_min, 1]; an unknown replica weighs 1; the same calls
    with the same clock and random source give the same answers; memory is bounded. Not thread-safe:
    the owner serialises the calls.
    """

    def __init__(
        self,
        *,
        now_s: Callable[[], float],
        rng: random.Random,
        settings: BalancingSettings = DEFAULT_BALANCING,
    ) -> None:
        self._now_s = now_s
        self._rng = rng
        self._settings = settings
        self._records: dict[str, _Record] = {}

    def began(self, replica_id: str) -> bool:
        """A request is sent to the replica. True when it is the probe of a half-open breaker."""
        record = self._records.get(replica_id)
        return record is not None and record.breaker.began()

    def succeeded(self, replica_id: str, latency_s: float, *, probe: bool = False) -> None:
        """The replica answered after `latency_s`, a duration that compares between its peers."""
        assert latency_s >= 0.0
        settings, now_s = self._settings, self._now_s()
        record = self._record(replica_id, now_s)
        # What the silence has forgiven is settled first, so that news adds to the present weight,
        # not to an old one.
        health = self._forgiven(record.health, now_s - record.heard_s)
        record.health = min(1.0, health + settings.success_gain * (1.0 - health))
        if record.latency_s is None:
            record.latency_s = latency_s
        else:
            silence_s = max(0.0, now_s - record.heard_s)
            aged = 1.0 - 0.5 ** (silence_s / settings.latency_half_life_s)
            gain = max(settings.latency_gain, aged)
            record.latency_s += gain * (latency_s - record.latency_s)
        record.heard_s = now_s
        record.breaker.succeeded(probe=probe)

    def failed(self, replica_id: str, *, probe: bool = False) -> None:
        """The replica answered with an error, broke off, or did not answer in time."""
        now_s = self._now_s()
        record = self._record(replica_id, now_s)
        health = self._forgiven(record.health, now_s - record.heard_s)
        record.health = max(self._settings.weight_min, health * self._settings.failure_factor)
        record.heard_s = now_s
        record.breaker.failed(probe=probe)

    def inconclusive(self, replica_id: str, *, probe: bool) -> None:
        """The request ended in a way that tells nothing of the replica."""
        record = self._records.get(replica_id)
        if record is not None:
            record.breaker.inconclusive(probe=probe)

    def passes(self, replica_id: str) -> bool:
        """True when the replica's circuit breaker lets a request through now."""
        record = self._records.get(replica_id)
        return record is None or record.breaker.passes()

    def weight(self, replica_id: str) -> float:
        """The replica's weight in [weight_min, 1]; 1 for an unknown replica."""
        return self._weight(replica_id, self._fastest_s(self._records), self._now_s())

    def order(self, replica_ids: Sequence[str]) -> list[str]:
        """All of `replica_ids`, drawn by weight without replacement: ask them in this order. Those
        that their breaker holds back come last, for when nothing else is left. Their speeds are
        judged among themselves.

        Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006): sorting by u **
        (1 / w) with u uniform is such a draw. Taking -log turns the keys into exponential variates
        of rate w, smallest first, which stays exact for small weights.
        """
        if len(replica_ids) < 2:
            return list(replica_ids)
        fastest_s, now_s = self._fastest_s(replica_ids), self._now_s()
        keys = [
            (
                not self.passes(replica_id),
                self._rng.expovariate(self._weight(replica_id, fastest_s, now_s)),
            )
            for replica_id in replica_ids
        ]
        return [replica_id for _, replica_id in sorted(zip(keys, replica_ids, strict=True))]

    def retain(self, replica_ids: Collection[str]) -> None:
        """Forgets every replica that is not among `replica_ids`."""
        for departed in self._records.keys() - set(replica_ids):
            del self._records[departed]

    def _record(self, replica_id: str, now_s: float) -> _Record:
        record = self._records.get(replica_id)
        if record is None:
            if len(self._records) >= self._settings.replicas_max:
                quietest = min(self._records, key=lambda known: self._records[known].heard_s)
                del self._records[quietest]
            breaker = CircuitBreaker(
                now_s=self._now_s, rng=self._rng, settings=self._settings.breaker
            )
            record = _Record(breaker=breaker, health=1.0, heard_s=now_s, latency_s=None)
            self._records[replica_id] = record
        return record

    def _fastest_s(self, replica_ids: Iterable[str]) -> float | None:
        fastest_s = None
        for replica_id in replica_ids:
            record = self._records.get(replica_id)
            if record is None or record.latency_s is None:
                continue
            if fastest_s is None or record.latency_s < fastest_s:
                fastest_s = record.latency_s
        return fastest_s

    def _weight(self, replica_id: str, fastest_s: float | None, now_s: float) -> float:
        record = self._records.get(replica_id)
        if record is None:
            return 1.0
        weight = record.health
        if record.latency_s is not None and fastest_s is not None:
            fair_s = fastest_s * self._settings.latency_tolerance
            if record.latency_s > fair_s:
                weight *= (fair_s / record.latency_s) ** self._settings.slowness_power
        return self._forgiven(weight, now_s - record.heard_s)

    def _forgiven(self, weight: float, silence_s: float) -> float:
        if weight >= 1.0:
            return 1.0
        floored = max(self._settings.weight_min, weight)
        if silence_s <= 0.0:
            return floored
        return float(floored ** (0.5 ** (silence_s / self._settings.recovery_half_life_s)))
