"""The region's front actor: the query engine for callers inside the Ray cluster."""

from __future__ import annotations

from pathlib import Path

from actors.engine_assembly import assemble_engine
from cluster.answers import AnswerRequest, AnswerResult, RegionSummary
from cluster.clock import Deadline
from cluster.object_store import ObjectStore
from cluster.search import SearchRequest, SearchResult

_START_TIMEOUT_S = 30.0


class Front:
    """Answers the Python client. An error of `cluster.errors` reaches the client's `ray.get`."""

    def __init__(self, store: ObjectStore, cache_folder: Path, local_first: bool) -> None:
        self._engine, self._views = assemble_engine(store, cache_folder, local_first=local_first)

    async def search(self, request: SearchRequest) -> SearchResult:
        await self._started()
        return await self._engine.search(request)

    async def answer(self, request: AnswerRequest) -> AnswerResult:
        await self._started()
        return await self._engine.answer(request)

    async def status(self) -> RegionSummary:
        return await self._views.status()

    async def _started(self) -> None:
        # The follower needs the running event loop, which a constructor does not have.
        await self._views.start(Deadline.after(_START_TIMEOUT_S))
