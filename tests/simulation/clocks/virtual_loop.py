"""A real event loop whose time is the scheduler's, for code that runs on asyncio alone."""

from __future__ import annotations

import asyncio
import selectors

from tests.simulation.clocks.sim_time import Scheduler


class _Skipping(selectors.SelectSelector):
    """Where an event loop would wait, the scheduler's time passes."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits for ever"
        if timeout > 0:
            self._scheduler.run(self._scheduler.now_s + timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on the scheduler's time, and the clock of those who live in it."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(_Skipping(scheduler))
        self._scheduler = scheduler

    def time(self) -> float:
        return self._scheduler.now_s

    def monotonic_s(self) -> float:
        return self._scheduler.now_s

    def wall_ms(self) -> int:
        return int(self._scheduler.now_s * 1000)
