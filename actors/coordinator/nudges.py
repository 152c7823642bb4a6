"""Tells the other regions that the release log has grown, so that they need not wait for their next
look at it.

Only a hint: what is lost here each region finds by itself half a second later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from cluster.config import Settings
from cluster.logs.events import EventLog
from cluster.regions.endpoint import RegionEndpoint
from cluster.regions.wire import NUDGE

log = EventLog(__name__)
_TIMEOUT_S = 1.0
_AT_ONCE = 8


class RegionNudges:
    """Call it after an entry has landed; it returns at once and raises nothing.

    One round of nudges is under way at a time, and one more may wait: it tells of all that was
    appended meanwhile.
    """

    def __init__(self, nudge_others: Callable[[], None]) -> None:
        self._nudge_others = nudge_others
        self._waiting = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nudge")

    def __call__(self) -> None:
        if not self._waiting.is_set():
            self._waiting.set()
            self._thread.submit(self._round)

    def _round(self) -> None:
        self._waiting.clear()
        try:
            self._nudge_others()
        except Exception as error:  # whatever it was, the regions look by themselves
            log.info("region.no_nudges", "regions could not be nudged: {error}", error=error)


class HttpNudges:
    """Posts to the gateways of all other regions, at once."""

    def __init__(self, settings: Settings, region: str) -> None:
        self._endpoints = [
            endpoint for name, endpoint in settings.endpoints().items() if name != region
        ]

    def __call__(self) -> None:
        if not self._endpoints:
            return
        with (
            httpx.Client(timeout=_TIMEOUT_S, trust_env=False) as client,
            ThreadPoolExecutor(min(_AT_ONCE, len(self._endpoints))) as posts,
        ):

            def post(endpoint: RegionEndpoint) -> None:
                key = endpoint.region_key
                headers = {} if key is None else {"Authorization": f"Bearer {key}"}
                try:
                    client.post(endpoint.url.rstrip("/") + NUDGE, headers=headers)
                except httpx.HTTPError as error:
                    log.debug(
                        "region.not_nudged",
                        "region {other} was not nudged: {error}",
                        other=endpoint.name,
                        error=error,
                    )

            list(posts.map(post, self._endpoints))
