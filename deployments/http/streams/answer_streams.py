"""The answers of all routes: their events, and the streams that these make."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from cluster.query.answers import AnswerEvent, AnswerRequest
from deployments.http.streams.alive_stream import alive
from deployments.http.streams.sse import EventStream, StreamFormat, event_chunks
from deployments.metering.metered_service import MeteredService
from deployments.metering.metrics import HttpMetrics


class AnswerStreams:
    def __init__(self, service: MeteredService, metrics: HttpMetrics, silence_s: float) -> None:
        """`silence_s`: longest silence of a stream."""
        self._service = service
        self._metrics = metrics
        self._silence_s = silence_s

    def events(
        self, route: str, asked: AnswerRequest, request: Request, *, stream: bool
    ) -> AsyncGenerator[AnswerEvent, None]:
        """`stream`: whether the caller sees the events as they come."""
        started_s = request.state.started_s if stream else None
        return self._service.answer_events(route, asked, streamed_since_s=started_s)

    def reply(
        self,
        route: str,
        events: AsyncGenerator[AnswerEvent, None],
        request: Request,
        form: StreamFormat,
    ) -> Response:
        """Streams the events."""
        ended = partial(self._metrics.stream_ended, route)
        chunks = event_chunks(events, form, request.state.trace_id, ended=ended)
        return self.alive(chunks, request, form)

    def alive(
        self, chunks: AsyncGenerator[bytes, None], request: Request, form: StreamFormat
    ) -> Response:
        """Streams the bytes, with signs of life."""
        living = alive(chunks, form, request.state.trace_id, every_s=self._silence_s)
        return EventStream(living)
