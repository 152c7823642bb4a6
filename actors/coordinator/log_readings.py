"""Readings of the release log that many callers wait for together."""

from __future__ import annotations

import threading

from cluster.errors import Unavailable


class LogReadings:
    """Counts the readings of one reader, so that a caller can wait for one that began after it
    came. Thread-safe.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._begun = 0
        self._ended = 0
        self._complete = 0
        """The last reading that came to the end of the log."""
        self._reason = ""
        """The reason why the last reading did not come to the end, as far as it is known."""

    def next(self) -> int:
        """The number of the next reading that begins: what to wait for."""
        with self._changed:
            return self._begun + 1

    def begin(self) -> None:
        with self._changed:
            self._begun += 1

    def end(self, *, complete: bool, reason: str = "") -> None:
        """The reading that was begun last is over. `reason`: why it is not complete."""
        with self._changed:
            self._ended, self._reason = self._begun, reason
            if complete:
                self._complete = self._begun
            self._changed.notify_all()

    def wait(self, number: int, timeout_s: float) -> None:
        """Returns once a reading from `number` on is complete. Raises Unavailable when one of them
        failed, or the time is over.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ended >= number, timeout_s)
            if self._complete < number:
                if self._ended >= number:
                    raise Unavailable(f"the release log cannot be read: {self._reason}")
                raise Unavailable("the release log is not read in time: the store does not answer")
