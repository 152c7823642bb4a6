"""The gateway's Prometheus metrics: of one process, in a registry of its own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from cluster.query.answers import AnswerResult
from cluster.query.provenance import HasProvenance
from cluster.query.read_consistency import ConsistencyLevel
from cluster.query.search import SearchResult
from cluster.regions.status import RegionSummary
from deployments.metering.duration_histogram import DurationHistogram

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_REQUEST_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
_STAGE_BUCKETS_S = (0.0001, 0.00025, 0.0005, *_REQUEST_BUCKETS_S[:10])


class HttpMetrics:
    """Labels take few values: routes that exist, status codes, stages of the search."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._requests = Counter(
            "raygion_http_requests",
            "Requests that ended. Status 499: the client left before its reply began.",
            ["route", "status"],
            registry=registry,
        )
        self._durations = DurationHistogram(
            "raygion_http_request_duration_seconds",
            "Time from a request's first line to the last byte of its reply.",
            label="route",
            buckets_s=_REQUEST_BUCKETS_S,
            registry=registry,
        )
        self.in_flight = Gauge(
            "raygion_http_requests_in_flight",
            "Requests that are being worked on, without health routes and /metrics.",
            registry=registry,
        )
        self._stages = DurationHistogram(
            "raygion_search_stage_duration_seconds",
            "Time of each stage of a search: embed, wait (for its batch), scatter, merge, fetch.",
            label="stage",
            buckets_s=_STAGE_BUCKETS_S,
            registry=registry,
        )
        self._partial = Counter(
            "raygion_partial_results",
            "Results with a coverage below 1: some shard did not answer.",
            ["route"],
            registry=registry,
        )
        self._prompt_tokens = Counter(
            "raygion_prompt_tokens",
            "Tokens that the language model read, for answers that came to their end.",
            registry=registry,
        )
        self._generated_tokens = Counter(
            "raygion_generated_tokens",
            "Tokens that the language model wrote, for answers that came to their end.",
            registry=registry,
        )
        self._first_token = Histogram(
            "raygion_time_to_first_token_seconds",
            "Time from a request to the first piece of its streamed answer.",
            buckets=_REQUEST_BUCKETS_S,
            registry=registry,
        )
        self._stream_ends = Counter(
            "raygion_streams",
            "Streamed answers, by how they ended: done, error or client_gone.",
            ["route", "end"],
            registry=registry,
        )
        self._staleness = Gauge(
            "raygion_staleness_seconds",
            "Upper bound on how long ago the release of the last result was current.",
            registry=registry,
        )
        self._forwarded = Counter(
            "raygion_forwarded",
            "Results that another region made for this one.",
            ["consistency"],
            registry=registry,
        )
        self._refused = Counter(
            "raygion_refused",
            "Requests that ended as not_yet or unavailable.",
            ["consistency"],
            registry=registry,
        )
        self._release = Gauge(
            "raygion_current_release",
            "Number of the current release, asked of the coordinator at each scrape; 0 before the "
            "first one.",
            registry=registry,
        )
        self._healthy = Gauge(
            "raygion_region_healthy",
            "1 while the region is healthy; 0 also while its coordinator does not answer.",
            registry=registry,
        )

        # Looking a labelled metric up costs more than counting with it.
        self._request_count = cache(self._requests.labels)

    def request_finished(self, route: str, status: int, took_s: float) -> None:
        self._request_count(route, status).inc()
        self._durations.add(route, took_s)

    def searched(self, route: str, result: SearchResult) -> None:
        self._stages_took(result.timings_ms)
        self._covered(route, result.coverage)

    def answered(self, route: str, result: AnswerResult) -> None:
        self._prompt_tokens.inc(result.usage.prompt_tokens)
        self._generated_tokens.inc(result.usage.completion_tokens)
        self._covered(route, result.coverage)

    def served(self, level: ConsistencyLevel, reply: HasProvenance) -> None:
        self._staleness.set(reply.staleness_ms / 1000.0)
        if reply.served_by != reply.region:
            self._forwarded.labels(level.value).inc()

    def refused(self, level: ConsistencyLevel) -> None:
        """No region that could be asked was able to answer."""
        self._refused.labels(level.value).inc()

    def first_token(self, waited_s: float) -> None:
        self._first_token.observe(waited_s)

    def stream_ended(self, route: str, end: str) -> None:
        """`end` is `done`, `error` or `client_gone`."""
        self._stream_ends.labels(route, end).inc()

    def observe_region(self, summary: RegionSummary | None) -> None:
        """None when the region could not say its status: the last known release stays."""
        self._healthy.set(1 if summary is not None and summary.healthy else 0)
        if summary is not None:
            self._release.set(summary.release or 0)

    def to_bytes(self) -> bytes:
        return generate_latest(self.registry)

    def _stages_took(self, timings_ms: Mapping[str, float]) -> None:
        for stage, took_ms in timings_ms.items():
            self._stages.add(stage, took_ms / 1000.0)

    def _covered(self, route: str, coverage: float) -> None:
        if coverage < 1.0:
            self._partial.labels(route).inc()
