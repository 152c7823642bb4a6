"""Time and random numbers as injected components, the values made of them (deadlines and backoff),
and the wait for a condition. No other module of the product asks the system for the time or for a
seed, which a contract and a lint rule in `pyproject.toml` hold.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from cluster.errors import DeadlineExceeded

T = TypeVar("T")


class Clock(Protocol):
    """Two clocks that are never mixed: `monotonic_s` for durations, `wall_ms` for moments that
    other machines read.
    """

    def monotonic_s(self) -> float: ...

    def wall_ms(self) -> int: ...


class SystemClock:
    # Asked ten times a search: without a function of its own around it.
    monotonic_s = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)
    # The cores' time that this process has used, in all of its threads.
    cpu_s = staticmethod(time.process_time)

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


SYSTEM_CLOCK = SystemClock()


def system_rng() -> random.Random:
    """A generator that the system seeds, for whoever was given none. Equal seeds would let all
    processes retry in step and send their requests the same way.
    """
    return random.Random()


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on this process's monotonic clock.

    Inside a process a deadline is absolute; on the wire it travels as remaining seconds, since the
    monotonic clocks of two processes do not compare.
    """

    at_s: float
    clock: Clock = SYSTEM_CLOCK

    @classmethod
    def after(cls, timeout_s: float, clock: Clock = SYSTEM_CLOCK) -> Deadline:
        return cls(clock.monotonic_s() + timeout_s, clock)

    def remaining_s(self) -> float:
        return max(0.0, self.at_s - self.clock.monotonic_s())

    def expired(self) -> bool:
        return self.remaining_s() <= 0.0

    def check(self, doing: str) -> None:
        """Raises DeadlineExceeded when the time is over; `doing` completes "time ran out while
        ...".
        """
        if self.expired():
            raise DeadlineExceeded(f"time ran out while {doing}")


def wait_until(
    look: Callable[[], T],
    timeout_s: float,
    *,
    poll_s: float,
    clock: Clock = SYSTEM_CLOCK,
    sleep: Callable[[float], None] = SYSTEM_CLOCK.sleep,
) -> T:
    """The first true result of `look`, which is called at once and then every `poll_s`. When
    `timeout_s` is over, the false result of the last call.
    """
    deadline = Deadline.after(timeout_s, clock)
    while not (found := look()) and not deadline.expired():
        sleep(poll_s)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits between attempts: exponential, capped, with proportional jitter so that retries do not
    march in step.
    """

    initial_s: float = 0.02
    multiplier: float = 2.0
    wait_max_s: float = 1.0
    jitter: float = 0.2
    attempts_max: int = 8

    def wait_s(self, attempt: int, rng: random.Random) -> float:
        """The wait after the failed attempt number `attempt`, counted from 0."""
        # The exponent is capped: 2.0 ** 2000 would overflow long before the cap on the wait is
        # applied.
        wait_s = min(self.wait_max_s, self.initial_s * self.multiplier ** min(attempt, 64))
        return wait_s * (1.0 + self.jitter * rng.random())
