"""Counts how requests ended, whatever way they came in. The edge counts how long they took."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from cluster.clock import Clock
from cluster.errors import NotYet, Unavailable
from cluster.query.answers import (
    AnswerEvent,
    AnswerRequest,
    AnswerResult,
    EmbeddingService,
    Retrieved,
    Token,
)
from cluster.query.search import EmbeddingResult, SearchRequest, SearchResult
from deployments.metering.metrics import HttpMetrics


class MeteredService:
    """The same service, for routes that are told apart in the metrics."""

    def __init__(self, service: EmbeddingService, metrics: HttpMetrics, clock: Clock) -> None:
        self._service = service
        self._metrics = metrics
        self._clock = clock

    async def search(self, route: str, request: SearchRequest) -> SearchResult:
        try:
            result = await self._service.search(request)
        except (NotYet, Unavailable):
            self._metrics.refused(request.consistency.level)
            raise
        self._metrics.served(request.consistency.level, result)
        self._metrics.searched(route, result)
        return result

    async def embed(self, request: SearchRequest, dimension: int | None = None) -> EmbeddingResult:
        try:
            result = await self._service.embed(request, dimension)
        except (NotYet, Unavailable):
            self._metrics.refused(request.consistency.level)
            raise
        self._metrics.served(request.consistency.level, result)
        return result

    async def answer_events(
        self, route: str, request: AnswerRequest, *, streamed_since_s: float | None = None
    ) -> AsyncGenerator[AnswerEvent, None]:
        """`streamed_since_s`: the moment on the clock from which the caller of a streamed answer
        waits for its first token.
        """
        begun = False
        try:
            async with aclosing(self._service.answer_events(request)) as events:
                async for event in events:
                    match event:
                        case Retrieved():
                            self._metrics.served(request.consistency.level, event)
                        case Token() if streamed_since_s is not None:
                            self._metrics.first_token(self._clock.monotonic_s() - streamed_since_s)
                            streamed_since_s = None
                        case AnswerResult():
                            self._metrics.answered(route, event)
                    begun = True
                    yield event
        except (NotYet, Unavailable):
            if not begun:
                self._metrics.refused(request.consistency.level)
            raise
