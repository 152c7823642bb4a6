"""Waits of tests for the work of other threads, processes and machines."""

from __future__ import annotations

from collections.abc import Callable

from cluster import clock

_POLL_S = 0.02


def wait_until(
    condition: Callable[[], object], what: str = "the condition", timeout_s: float = 120.0
) -> float:
    """The seconds until the condition came true. The timeout is there for a broken test, not for a
    slow one.
    """
    started_s = clock.SYSTEM_CLOCK.monotonic_s()
    came_true = clock.wait_until(condition, timeout_s, poll_s=_POLL_S)
    assert came_true, f"waited {timeout_s:g} s for {what}"
    return clock.SYSTEM_CLOCK.monotonic_s() - started_s
