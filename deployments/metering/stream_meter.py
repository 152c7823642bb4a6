"""The measurements of a streamed answer."""

from __future__ import annotations

from cluster.clock import Clock
from cluster.query.answers import AnswerEvent, AnswerResult, Token
from deployments.metering.metrics import HttpMetrics


class StreamMeter:
    """Measures one stream: the wait for its first token, its tokens, its end."""

    def __init__(self, route: str, metrics: HttpMetrics, clock: Clock, started_s: float) -> None:
        self._route = route
        self._metrics = metrics
        self._clock = clock
        self._started_s: float | None = started_s

    def event_sent(self, event: AnswerEvent) -> None:
        if isinstance(event, Token) and self._started_s is not None:
            self._metrics.first_token(self._clock.monotonic_s() - self._started_s)
            self._started_s = None
        elif isinstance(event, AnswerResult):
            self._metrics.answered(self._route, event)

    def stream_ended(self, end: str) -> None:
        self._metrics.stream_ended(self._route, end)
