"""Virtual time: processes that run one at a time, in an order that the seed alone decides.

A process is a greenlet, a stack of its own, so that it can run blocking code as it is; whenever it
sleeps, the next one runs.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from greenlet import getcurrent, greenlet


class Killed(BaseException):
    """Ends the process that it is raised in, as a crash would: at whatever it was doing."""


class Scheduler:
    """Runs actions and processes in the order of their virtual moments."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.main = getcurrent()
        self.living: dict[Stack, None] = {}
        self._until_s = 0.0
        self._queue: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()

    def after(self, delay_s: float, action: Callable[[], object]) -> None:
        heapq.heappush(self._queue, (self.now_s + delay_s, next(self._order), action))

    def repeat(
        self, action: Callable[[], None], gap_s: Callable[[], float], goes_on: Callable[[], bool]
    ) -> None:
        """Does it after each gap, as long as that is wanted."""

        def again() -> None:
            if goes_on():
                action()
                self.after(gap_s(), again)

        self.after(gap_s(), again)

    def run(self, until_s: float) -> None:
        """Runs all that is due until then. Raises what a process failed with."""
        self._until_s = until_s
        queue = self._queue
        while queue and queue[0][0] <= until_s:
            self.now_s, _, action = heapq.heappop(queue)
            action()
        self.now_s = until_s

    def try_skip(self, wait_s: float) -> bool:
        """Moves the time on when nothing else is due before then: no need to change the stack."""
        moment_s = self.now_s + wait_s
        if moment_s > self._until_s or (self._queue and self._queue[0][0] <= moment_s):
            return False
        self.now_s = moment_s
        return True

    def close(self) -> None:
        """Ends all processes."""
        while self.living:
            stack = next(iter(self.living))
            stack.process.kill()
            stack.throw(Killed)


class Stack(greenlet):
    """One line of work of a process, beside others of the same one."""

    def __init__(self, process: Process, body: Callable[[], None]) -> None:
        super().__init__(body, process.scheduler.main)
        self.process = process
        process.scheduler.living[self] = None
        process.scheduler.after(0.0, self.switch)

    def end(self) -> None:
        self.process.scheduler.living.pop(self)


class Process:
    """Subclasses say in `body` what it does; it may call `sleep`."""

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        self.name = name
        self.ended = False
        self.killed = False
        self.scheduler = scheduler
        self._stack = Stack(self, self._run)

    def body(self) -> None:
        raise NotImplementedError

    def sleep(self, wait_s: float) -> None:
        """The stack that calls it sleeps, the process's other ones do not."""
        if self.scheduler.try_skip(wait_s):
            return
        self.scheduler.after(wait_s, getcurrent().switch)
        self.pause()

    def pause(self) -> None:
        """Until somebody switches back to this stack."""
        if not self.killed:
            self.scheduler.main.switch()
        if self.killed:
            raise Killed

    def kill(self) -> None:
        """Whatever it sleeps in is the last thing that it did."""
        self.killed = True

    def _run(self) -> None:
        try:
            if not self.killed:
                self.body()
        except Killed:
            self.killed = True
        finally:
            self.ended = True
            self._stack.end()


class Signal:
    """What one stack waits for and others, of whatever process, give."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._waiting: dict[greenlet, None] = {}

    def wait(self, process: Process, wait_max_s: float) -> None:
        """Returns after `give`, or when the time is over."""
        stack = getcurrent()
        self._waiting[stack] = None
        self._scheduler.after(wait_max_s, lambda: self._wake(stack))
        process.pause()

    def give(self) -> None:
        for stack in list(self._waiting):
            self._scheduler.after(0.0, lambda s=stack: self._wake(s))

    def _wake(self, stack: greenlet) -> None:
        if stack in self._waiting:
            del self._waiting[stack]
            stack.switch()


def current_stack() -> Stack:
    """The one that runs."""
    stack = getcurrent()
    assert isinstance(stack, Stack)
    return stack
