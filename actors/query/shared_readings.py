"""Readings of the release log that requests share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from cluster.errors import Unavailable


class SharedReadings:
    """Reads one time after the other, each for all who came before that reading began."""

    def __init__(self, read: Callable[[], Awaitable[None]], *, timeout_s: float) -> None:
        """`read` reads once, in `timeout_s` at most, and raises what kept it from that."""
        self._read = read
        self._timeout_s = timeout_s
        self._reading: asyncio.Task[str] | None = None
        self._next_reading: asyncio.Task[str] | None = None

    async def fresh(self) -> None:
        """Returns after a reading that began after this call. A caller that leaves ends none.

        Raises Unavailable when that reading failed.
        """
        if self._next_reading is None:
            # A caller that comes while one is under way waits for the next one, since the first may
            # have begun too early.
            self._next_reading = asyncio.create_task(self._after(self._reading), name="reading")
        failure = await asyncio.shield(self._next_reading)
        if failure:
            raise Unavailable(failure)

    async def _after(self, before: asyncio.Task[str] | None) -> str:
        """Reads once. Returns the reason of a failure, and an empty string for success."""
        if before is not None:
            await asyncio.wait([before])
        self._reading, self._next_reading = self._next_reading, None
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._read()
        except Exception as error:
            return str(error) or "the region's coordinator does not answer"
        return ""
