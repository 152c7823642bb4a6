"""Counts how requests' demands were met, whatever way they came in."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from cluster.errors import NotYet, Unavailable
from cluster.query.answers import AnswerEvent, AnswerRequest, QueryService, Retrieved
from cluster.query.search import SearchRequest, SearchResult
from deployments.metering.metrics import HttpMetrics


class MeteredService:
    """The same service, as a `cluster.query.answers.QueryService`."""

    def __init__(self, service: QueryService, metrics: HttpMetrics) -> None:
        self._service = service
        self._metrics = metrics

    async def search(self, request: SearchRequest) -> SearchResult:
        try:
            result = await self._service.search(request)
        except (NotYet, Unavailable):
            self._metrics.refused(request.demand.level)
            raise
        self._metrics.served(request.demand.level, result)
        return result

    async def answer_events(self, request: AnswerRequest) -> AsyncGenerator[AnswerEvent, None]:
        begun = False
        try:
            async with aclosing(self._service.answer_events(request)) as events:
                async for event in events:
                    if isinstance(event, Retrieved):
                        self._metrics.served(request.demand.level, event)
                    begun = True
                    yield event
        except (NotYet, Unavailable):
            if not begun:
                self._metrics.refused(request.demand.level)
            raise
