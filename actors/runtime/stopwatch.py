"""Measures how long each step of a request takes."""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.clock import Clock


@dataclass(slots=True)
class Stopwatch:
    """Splits the time of a request into named stages, in milliseconds."""

    clock: Clock
    started_s: float
    lapped_s: float
    laps_ms: dict[str, float] = field(default_factory=dict)

    @classmethod
    def start(cls, clock: Clock) -> Stopwatch:
        now_s = clock.monotonic_s()
        return cls(clock, now_s, now_s)

    def lap(self, stage: str) -> None:
        now_s = self.clock.monotonic_s()
        self.laps_ms[stage] = (now_s - self.lapped_s) * 1000
        self.lapped_s = now_s

    def total_ms(self) -> float:
        return (self.clock.monotonic_s() - self.started_s) * 1000
