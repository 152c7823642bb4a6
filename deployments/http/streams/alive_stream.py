"""Signs of life in streams: whoever reads one, and each proxy on the way, must tell a stream that
waits for the model from one that is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from cluster.errors import Unavailable
from deployments.http.errors import error_body, log_failure
from deployments.http.streams.sse import StreamFormat

SIGN_OF_LIFE = b": alive\n\n"
"""A comment: readers of events skip it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SilenceLimits:
    """Longest silence of a stream, after which a sign of life is sent."""

    to_callers_s: float = 5.0
    """Proxies on the way give up after some tens of seconds."""
    between_regions_s: float = 1.0
    """Several signs of life come within the silence after which
    `actors.regions.peer_connection` gives a stream up.
    """


SILENCE_LIMITS = SilenceLimits()


async def alive(
    chunks: AsyncGenerator[bytes, None], form: StreamFormat, trace_id: str, *, every_s: float
) -> AsyncGenerator[bytes, None]:
    """The chunks as they come, with a sign of life whenever none came for so long.

    Raises only before the first byte; later, an error becomes an event of the form. The next chunk
    is made when it is asked for. Closing this closes `chunks`, which one task drives from the first
    to the last.
    """
    made: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(1)

    async def make() -> None:
        end: Exception | None = None
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    await made.put(chunk)
                    await made.join()
        except Exception as error:
            end = error
        await made.put(end)

    making = asyncio.create_task(make())
    started = False
    try:
        while True:
            try:
                async with asyncio.timeout(every_s):
                    item = await made.get()
            except TimeoutError:
                if making.done() and made.empty():
                    # Cancelled by itself, it could not even say that it ends.
                    item = Unavailable("the stream broke off before its end; ask again")
                else:
                    item = SIGN_OF_LIFE
            if item is None:
                return
            if isinstance(item, Exception):
                if not started:
                    raise item
                log_failure(item)
                yield form.error(error_body(item, trace_id))
                return
            started = True
            yield item
            if item is not SIGN_OF_LIFE:
                made.task_done()
    finally:
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
