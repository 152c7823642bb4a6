"""Virtual time: processes that run one at a time, in an order that the seed alone decides.

A process is a thread, so that it can run blocking code as it is; but only the thread that holds the
baton runs, and it hands the baton on whenever it sleeps.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable


class Killed(BaseException):
    """Ends the process that it is raised in, as a crash would: at whatever it was doing."""


class Scheduler:
    """Runs actions and processes in the order of their virtual moments."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.failure: BaseException | None = None
        self.baton_back = threading.Semaphore(0)
        self.processes: list[Process] = []
        self._until_s = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now_s + delay_s, next(self._order), action))

    def run(self, until_s: float) -> None:
        """Runs all that is due until then. Raises what a process failed with."""
        self._until_s = until_s
        while self._queue and self._queue[0][0] <= until_s:
            self.now_s, _, action = heapq.heappop(self._queue)
            action()
            if self.failure is not None:
                raise self.failure
        self.now_s = until_s

    def try_skip(self, wait_s: float) -> bool:
        """Moves the time on when nothing else is due before then: no need to hand the baton on."""
        moment_s = self.now_s + wait_s
        if moment_s > self._until_s or (self._queue and self._queue[0][0] <= moment_s):
            return False
        self.now_s = moment_s
        return True

    def close(self) -> None:
        """Ends all processes and their threads."""
        for process in self.processes:
            process.end()


class Process:
    """Subclasses say in `body` what it does; it may call `sleep`."""

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        self.name = name
        self.ended = False
        self.killed = False
        self._scheduler = scheduler
        self._go = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        scheduler.processes.append(self)
        scheduler.after(0.0, self._resume)

    def body(self) -> None:
        raise NotImplementedError

    def sleep(self, wait_s: float) -> None:
        if self._scheduler.try_skip(wait_s):
            return
        self._scheduler.after(wait_s, self._resume)
        self._scheduler.baton_back.release()
        self._go.acquire()
        if self.killed:
            raise Killed

    def kill(self) -> None:
        """Whatever it sleeps in is the last thing that it did."""
        self.killed = True

    def end(self) -> None:
        self.kill()
        while not self.ended:
            self._resume()
        self._thread.join()

    def _resume(self) -> None:
        if self.ended:
            return
        self._go.release()
        self._scheduler.baton_back.acquire()

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self.killed:
                self.body()
        except Killed:
            self.killed = True
        except BaseException as error:
            self._scheduler.failure = error
        finally:
            self.ended = True
            self._scheduler.baton_back.release()
