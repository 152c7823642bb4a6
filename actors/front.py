"""The region's front actor: the query engine for callers inside the Ray cluster."""

from __future__ import annotations

from pathlib import Path

from actors.engine_assembly import assemble_region
from cluster.answers import AnswerRequest, AnswerResult, RegionSummary
from cluster.clock import Deadline
from cluster.config import Settings
from cluster.object_store import ObjectStore
from cluster.search import SearchRequest, SearchResult

_START_TIMEOUT_S = 30.0


class Front:
    """Answers the Python client. An error of `cluster.errors` reaches the client's `ray.get`."""

    def __init__(
        self, settings: Settings, region: str, store: ObjectStore, cache_folder: Path
    ) -> None:
        self._region = assemble_region(settings, region, store, cache_folder)

    async def search(self, request: SearchRequest) -> SearchResult:
        await self._started()
        return await self._region.service.search(request)

    async def answer(self, request: AnswerRequest) -> AnswerResult:
        await self._started()
        return await self._region.service.answer(request)

    async def status(self) -> RegionSummary:
        return await self._region.service.status()

    async def _started(self) -> None:
        # The follower needs the running event loop, which a constructor does not have.
        await self._region.start(Deadline.after(_START_TIMEOUT_S))
