"""Tells the other regions that this region's log of a corpus has grown, so that they need not wait
for their next look at it.

Only a hint: what is lost here each region finds by itself a second later.
"""

from __future__ import annotations

import asyncio

import httpx

from cluster.config import Settings
from cluster.logs.events import EventLog
from cluster.mutations.watermark import Watermark
from cluster.regions.endpoint import RegionEndpoint
from cluster.regions.wire import reached_call

log = EventLog(__name__)
_TIMEOUT_S = 1.0


class LogNudges:
    """Nudges the other regions that may hold the corpus, each by itself: one that is away holds no
    other back. One nudge for each region and corpus is under way at a time, and the next one tells
    of all that was appended meanwhile. For one event loop.
    """

    def __init__(self, settings: Settings, region: str) -> None:
        self._settings = settings
        self._region = region
        self._others = [e for name, e in settings.endpoints().items() if name != region]
        self._ends: dict[str, int] = {}
        """The last position of this region's log, by corpus."""
        self._under_way: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._client: httpx.AsyncClient | None = None

    def tell(self, corpus: str, position: int) -> None:
        """This region's log of the corpus has come to the position. Returns at once, and raises
        nothing.
        """
        self._ends[corpus] = position
        for other in self._others:
            key = (other.name, corpus)
            if key not in self._under_way and self._settings.may_hold(other.name, corpus):
                self._under_way[key] = asyncio.create_task(self._tell(other, corpus), name="nudge")

    async def stop(self) -> None:
        for task in list(self._under_way.values()):
            task.cancel()
        if self._client is not None:
            await self._client.aclose()

    async def _tell(self, other: RegionEndpoint, corpus: str) -> None:
        told = 0
        try:
            while told < self._ends[corpus]:
                told = self._ends[corpus]
                await self._post(other, corpus, Watermark.of({self._region: told}))
        finally:
            del self._under_way[other.name, corpus]

    async def _post(self, other: RegionEndpoint, corpus: str, watermark: Watermark) -> None:
        call = reached_call(corpus, watermark, _TIMEOUT_S)
        headers = dict(call.headers)
        if other.region_key is not None:
            headers["authorization"] = f"Bearer {other.region_key}"
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False)
        try:
            await self._client.post(
                other.url.rstrip("/") + call.path, content=call.content, headers=headers
            )
        except httpx.HTTPError as error:
            log.debug(
                "mutations.not_nudged",
                "region {other} was not nudged: {error}",
                other=other.name,
                error=error,
            )
