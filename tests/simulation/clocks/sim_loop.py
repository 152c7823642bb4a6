"""An event loop on the scheduler's time: coroutines run among processes, as everything else does,
in the order that the seed decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any

from tests.simulation.clocks.sim_time import Scheduler


class SimLoop(asyncio.AbstractEventLoop):
    """As much of a loop as tasks, futures, timeouts and sleeps need."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.failure: BaseException | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Tasks can be made and asked for inside of this."""
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    def time(self) -> float:
        return self._scheduler.now_s

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._scheduler.after(0.0, lambda: self._run(handle))
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._scheduler.after(max(0.0, when - self.time()), lambda: self._run(handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """An error that nobody takes ends the simulation."""
        self.failure = context.get("exception") or RuntimeError(context["message"])

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It stays in the queue, and does nothing when its time comes."""

    def _run(self, handle: asyncio.Handle) -> None:
        if not handle.cancelled():
            handle._run()
            if self.failure is not None:
                raise self.failure
