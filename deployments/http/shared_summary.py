"""The last summary of the region's coordinator, for all requests that need it.

There is one coordinator, and health checks and scrapes come from anywhere. So one call to it is
under way at a time, and the answer serves whoever asks within half a second.
"""

from __future__ import annotations

import asyncio

from cluster.clock import Clock
from cluster.errors import DeadlineExceeded, RaygionError, Unavailable
from cluster.regions.status import RegionSummary, StatusSource

FRESH_S = 0.5
"""An answer, or a failure, serves all who ask within so long."""
PATIENCE_S = 0.5
"""Time for which a caller that has an older summary waits for a newer one."""
_CALL_TIMEOUT_S = 60.0
"""After so long a call is lost, and another one may be made."""


class SharedSummary:
    """Asks `source` for the summary when somebody wants it. For one event loop."""

    def __init__(
        self,
        source: StatusSource,
        clock: Clock,
        *,
        timeout_s: float,
        call_timeout_s: float = _CALL_TIMEOUT_S,
    ) -> None:
        """`timeout_s`: how long a caller waits for a summary; `call_timeout_s`: how long a call to
        the coordinator may take, even when no caller waits for it any more.
        """
        self._source = source
        self._call_timeout_s = call_timeout_s
        self._clock = clock
        self._timeout_s = timeout_s
        self._asking: asyncio.Task[None] | None = None
        self._ended_s = float("-inf")
        """Time at which the last call ended, with or without success."""
        self._failure: Exception | None = None
        """Failure of the last call."""
        self._last: RegionSummary | None = None
        self._last_asked_s = 0.0

    async def fresh(self) -> RegionSummary:
        """Raises the error of the last call: Unavailable while the coordinator is away, and
        DeadlineExceeded when it does not answer in time.
        """
        await self._renewed(self._timeout_s)
        assert self._last is not None
        return self._last

    async def last(self) -> tuple[RegionSummary, float]:
        """The newest that is known, and its age in seconds at most. Raises Unavailable before the
        first one.
        """
        try:
            await self._renewed(self._timeout_s if self._last is None else PATIENCE_S)
        except RaygionError as error:
            if self._last is None:
                raise Unavailable("this region is still starting; try again shortly") from error
        assert self._last is not None
        return self._last, self._clock.monotonic_s() - self._last_asked_s

    async def _renewed(self, wait_s: float) -> None:
        if self._asking is None and self._clock.monotonic_s() - self._ended_s >= FRESH_S:
            self._asking = asyncio.create_task(self._call(), name="summary")
        if self._asking is not None:
            await asyncio.wait({self._asking}, timeout=wait_s)
        if self._asking is not None:
            raise DeadlineExceeded("the region did not say its status in time")
        if self._failure is not None:
            raise self._failure.with_traceback(None)

    async def _call(self) -> None:
        asked_s = self._clock.monotonic_s()
        try:
            async with asyncio.timeout(self._call_timeout_s):
                self._last = await self._source.status()
        except TimeoutError:
            self._failure = DeadlineExceeded("the region did not say its status in time")
        except Exception as error:  # it is raised where somebody waits
            self._failure = error
        else:
            self._failure, self._last_asked_s = None, asked_s
        finally:
            self._ended_s = self._clock.monotonic_s()
            self._asking = None
