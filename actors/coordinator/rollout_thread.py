"""The thread that drives a region's rollout: it follows the release log, does what the rollout
decides, and serves people's requests in between.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from actors.coordinator.log_readings import LogReadings
from actors.coordinator.published_state import PublishedState
from cluster.clock import Clock
from cluster.errors import Fenced, LogUnreadable, OutcomeUnknown, RaygionError, Unavailable
from cluster.logs.events import EventLog
from cluster.releases.driver import RolloutDriver
from cluster.releases.entries import LogState
from cluster.releases.events import ReleaseOutcome
from cluster.releases.requests import ReleaseRequest
from cluster.store.identity import store_identity
from cluster.store.object_store import ObjectStore

log = EventLog(__name__)

_TICK_S = 0.5
_REQUESTS_MAX = 256


@dataclass(slots=True)
class _Waiting:
    """A request that waits to be served."""

    request: ReleaseRequest
    done: Future[LogState]


class RolloutThread:
    """Owns the driver, and publishes after every step. The thread waits for the store; the methods,
    which other threads call, wait for the thread no longer than they are told to.

    The next step tries again what failed. The process ends when another coordinator of this region
    has taken over.
    """

    def __init__(
        self, driver: RolloutDriver, published: PublishedState, store: ObjectStore, clock: Clock
    ) -> None:
        self._driver = driver
        self._published = published
        self._store = store
        self._clock = clock
        self._inbox: queue.Queue[_Waiting | None] = queue.Queue(maxsize=_REQUESTS_MAX)
        """Requests to the thread; None only wakes it up."""
        self._woken = threading.Event()
        """True when the next reading of the log is not to wait for its time."""
        self._readings = LogReadings()
        self._exchanged_s = float("-inf")
        self._has_news = threading.Event()
        """True when the next heartbeat is not to wait for its time: the leader waits for it."""
        self._trouble = ""
        """Error of the last step; empty if it succeeded."""
        self._ending = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="rollout", daemon=True).start()

    def stop(self) -> None:
        """Ends the thread soon."""
        self._ending.set()

    # For other threads.

    @property
    def unreadable(self) -> LogUnreadable | None:
        """The entry at which the last reading of the log ended; None when it came to the end."""
        return self._driver.unreadable

    def request(self, request: ReleaseRequest, timeout_s: float) -> LogState:
        """Appends what a person asks for; the state right after the entry.

        Raises what `RolloutDriver.request` raises; Unavailable when the thread is too busy, and
        then makes no change; OutcomeUnknown when it has begun and is not done in time.
        """
        waiting = _Waiting(request, Future())
        try:
            self._inbox.put_nowait(waiting)
        except queue.Full as error:
            raise Unavailable(
                "too many requests wait for the coordinator; try again shortly"
            ) from error
        try:
            return waiting.done.result(timeout=timeout_s)
        except TimeoutError as error:
            if waiting.done.cancel():
                raise Unavailable(
                    "the coordinator was busy and made no change; try again"
                ) from error
            raise OutcomeUnknown(
                "the coordinator did not finish in time; look with `raygion release list`"
            ) from error

    def refresh(self, timeout_s: float) -> None:
        """Returns after a complete reading of the log that began after this call arrived.

        Callers share readings. Raises Unavailable when the store does not answer in time.
        """
        number = self._readings.next()
        self.nudge()
        self._readings.wait(number, timeout_s)

    def observe(self, outcome: ReleaseOutcome) -> None:
        """Records an outcome in the thread that found it, so that it counts at once, however slow
        the store is.
        """
        self._driver.observe(outcome)
        self._published.publish()
        self._has_news.set()
        self.nudge()

    def nudge(self) -> None:
        """The log may have grown: it is read at once instead of at its time."""
        if not self._woken.is_set():
            self._woken.set()
            # When much waits there, the log is read soon anyway: before each of it.
            with contextlib.suppress(queue.Full):
                self._inbox.put_nowait(None)

    # The thread itself.

    def _run(self) -> None:
        while not self._ending.is_set():
            self._look()
            try:
                waiting = self._inbox.get(timeout=_TICK_S)
            except queue.Empty:
                continue
            if waiting is not None:
                self._serve(waiting)

    def _look(self) -> None:
        """Reads the log, lets those go on who wait for that, and does what follows from it."""
        self._woken.clear()
        self._readings.begin()
        read = self._attempt(self._driver.read)
        self._readings.end(complete=read, reason=self._trouble)
        if not read and self._driver.unreadable is None:
            return
        now_s = self._clock.monotonic_s()
        exchange = self._has_news.is_set() or now_s - self._exchanged_s >= _TICK_S / 2
        self._has_news.clear()
        if not self._attempt(partial(self._driver.decide, exchange_heartbeats=exchange)):
            return
        if exchange:
            self._exchanged_s = now_s
        # Not before this cluster may write under the region's name.
        knows_store = self._published.store_id or self._attempt(self._read_store_id)
        if knows_store and read:
            self._trouble = ""

    def _read_store_id(self) -> None:
        self._published.store_id = store_identity(self._store)

    def _attempt(self, action: Callable[[], None]) -> bool:
        """True when the action succeeded. The next step tries an action that failed again."""
        try:
            action()
        except Fenced as error:
            log.error("coordinator.fenced", "{error}", error=error)
            # Ray starts the coordinator anew, unless this one is a leftover of a lost node.
            os._exit(1)
        except RaygionError as error:
            # Once: the next steps, twice a second, may well fail in the same way.
            if str(error) != self._trouble:
                log.warning(
                    "coordinator.tries_again",
                    "the coordinator will try again: {error}",
                    error=error,
                )
            self._trouble = str(error)
            return False
        except Exception as error:
            # This thread is the coordinator: a bug in one step must not end all steps.
            log.error(
                "coordinator.step_failed",
                "a step of the coordinator failed: {error}",
                error=error,
                traceback_of=error,
            )
            return False
        finally:
            self._published.publish()
        return True

    def _serve(self, waiting: _Waiting) -> None:
        if not waiting.done.set_running_or_notify_cancel():
            return
        try:
            state = self._driver.request(waiting.request)
        except Exception as error:
            waiting.done.set_exception(error)
        else:
            self._published.publish()
            waiting.done.set_result(state)
