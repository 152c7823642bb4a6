"""Waits of tests for the work of other tasks, threads, processes and machines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cluster import clock

T = TypeVar("T")
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


async def until(condition: Callable[[], object]) -> None:
    """Returns once the work of other tasks of the event loop has made the condition true."""
    async with asyncio.timeout(60.0):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


async def until_told(ask: Callable[[], Awaitable[T]], condition: Callable[[T], object]) -> T:
    """The first reply of which the condition is true."""
    async with asyncio.timeout(60.0):
        while not condition(told := await ask()):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.001)
    return told


async def turns(number: int) -> None:
    """Lets the other tasks of the event loop go on for so many turns."""
    for _ in range(number):
        await asyncio.sleep(0)
