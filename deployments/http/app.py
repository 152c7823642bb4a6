"""The HTTP interface of a region: routes over an EmbeddingService, and their OpenAPI page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Lifespan

from cluster.clock import SYSTEM_CLOCK, Clock
from cluster.deltas.document_service import DocumentService
from cluster.errors import RaygionError, Unavailable
from cluster.query.answers import EmbeddingService, last_event
from cluster.regions.divergence_report import DivergenceReport
from cluster.regions.peers import PeerServices
from cluster.regions.status import RegionSummary, StatusSource
from deployments.http.body import read_body
from deployments.http.caller import CallerReader
from deployments.http.document_routes import DocumentRoutes
from deployments.http.edge import HttpEdge
from deployments.http.errors import refused_by_router
from deployments.http.openai.chat import ChatBody
from deployments.http.openai.completions import CompletionsBody
from deployments.http.openai.embeddings import EmbeddingsBody
from deployments.http.openai.routes import OpenAIRoutes
from deployments.http.region_routes import (
    GenerateBody,
    ReachedBody,
    RegionAnswerBody,
    RegionRoutes,
)
from deployments.http.routes import ANSWER, SEARCH, KnownRoutes
from deployments.http.schemas.answer import AnswerBody, parse_answer
from deployments.http.schemas.documents import PutBody
from deployments.http.schemas.replies import (
    ANSWER_EXAMPLES,
    SEARCH_EXAMPLES,
    AnswerReply,
    BatchSearchReply,
    HealthReply,
    ReadyReply,
    SearchReply,
    StatusReply,
    render_answer,
    render_ready,
    render_status,
)
from deployments.http.schemas.route_descriptions import (
    REFERENCES,
    add_route,
    body_of,
    json_response,
    replies,
)
from deployments.http.schemas.search import SearchBody
from deployments.http.search_route import SearchRoute
from deployments.http.settings import HttpSettings
from deployments.http.shared_summary import SharedSummary
from deployments.http.slots import Slots
from deployments.http.streams.alive_stream import SILENCE_LIMITS, SilenceLimits
from deployments.http.streams.answer_streams import AnswerStreams
from deployments.http.streams.sse import NamedEvents, unless_gone
from deployments.metering.divergence_metrics import DivergenceMetrics
from deployments.metering.metered_service import MeteredService
from deployments.metering.metrics import CONTENT_TYPE, HttpMetrics


def build_http_app(
    service: EmbeddingService,
    settings: HttpSettings,
    *,
    status: StatusSource,
    peer_services: PeerServices | None = None,
    lifespan: Lifespan[FastAPI] | None = None,
    clock: Clock = SYSTEM_CLOCK,
    divergence: Callable[[], DivergenceReport] | None = None,
    documents: DocumentService | None = None,
    silence: SilenceLimits = SILENCE_LIMITS,
) -> RegionApp:
    """The whole interface as one ASGI application, with metrics of its own. `status` tells how the
    region is; `peer_services` is what the other regions ask for; `lifespan` starts and stops what
    `service` needs; `divergence` tells how the regions' answers compare; `documents` writes and
    reads single ones.
    """
    metrics = HttpMetrics()
    if divergence is not None:
        DivergenceMetrics(divergence, metrics.registry)
    metered = MeteredService(service, metrics, clock)
    app = RegionApp(
        title="Raygion",
        summary="Search and answers of one region, made wholly by one release.",
        redirect_slashes=False,
        redoc_url=None,
        lifespan=lifespan,
    )
    callers = CallerReader(settings.locations, settings.proxy)
    answers = AnswerStreams(metered, metrics, silence.to_callers_s)
    summary = SharedSummary(status, clock, timeout_s=settings.status_timeout_s)
    _Routes(answers, summary, settings, metrics, callers, divergence).add_to(app)
    answer_slots = Slots(
        settings.answers_in_flight_max, "this gateway writes as many answers as it can"
    )
    openai = OpenAIRoutes(metered, answers, summary, settings, callers, answer_slots, clock)
    openai.add_to(app)
    if documents is not None:
        DocumentRoutes(documents, settings, clock, silence_s=silence.to_callers_s).add_to(app)
    if peer_services is not None:
        between_regions = AnswerStreams(metered, metrics, silence.between_regions_s)
        RegionRoutes(between_regions, peer_services, settings, callers, clock).add_to(app)
    app.add_exception_handler(HTTPException, refused_by_router)

    def entrance(routes: ASGIApp) -> ASGIApp:
        app.edge = HttpEdge(
            routes,
            settings=settings,
            answer_slots=answer_slots,
            metrics=metrics,
            clock=clock,
            direct={("POST", SEARCH): SearchRoute(metered, settings, callers)},
            known_routes=KnownRoutes(app.routes),
        )
        app.entrance = _open_to_pages(app.edge, settings.cors_origins)
        return app.entrance

    app.add_middleware(entrance)
    # Otherwise made with the first request, and the edge with it.
    app.middleware_stack = app.build_middleware_stack()
    return app


_BODIES = (
    SearchBody,
    AnswerBody,
    ChatBody,
    CompletionsBody,
    EmbeddingsBody,
    RegionAnswerBody,
    GenerateBody,
    ReachedBody,
    PutBody,
)


class RegionApp(FastAPI):
    """FastAPI reads no body for us, so the schemas of the bodies are added here."""

    edge: HttpEdge
    """Application that all requests pass, except for browsers' questions whether a page may ask."""
    entrance: ASGIApp
    """Application for callers that know that the edge answers a request itself."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            schema = super().openapi()
            bodies = [(body, "validation") for body in _BODIES]
            _, found = models_json_schema(bodies, ref_template=REFERENCES)  # type: ignore[arg-type]
            schema["components"]["schemas"].update(found["$defs"])
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            # Keys are optional: without any set, every request is let in.
            schema["security"] = [{"key": []}, {}]
        assert self.openapi_schema is not None
        return self.openapi_schema


class _Routes:
    def __init__(
        self,
        answers: AnswerStreams,
        summary: SharedSummary,
        settings: HttpSettings,
        metrics: HttpMetrics,
        callers: CallerReader,
        divergence: Callable[[], DivergenceReport] | None,
    ) -> None:
        self._answers = answers
        self._summary = summary
        self._settings = settings
        self._metrics = metrics
        self._callers = callers
        self._divergence = divergence

    def add_to(self, app: FastAPI) -> None:
        add_route(
            app,
            "POST",
            SEARCH,
            self.search,
            responses=replies(SearchReply | BatchSearchReply),
            body=body_of(SearchBody, SEARCH_EXAMPLES),
        )
        add_route(
            app,
            "POST",
            ANSWER,
            self.answer,
            responses=replies(AnswerReply, stream="Events `retrieved`, `token`, `done`, `error`."),
            body=body_of(AnswerBody, ANSWER_EXAMPLES),
        )
        add_route(app, "GET", "/v1/status", self.status, responses=replies(StatusReply))
        add_route(app, "GET", "/healthz", self.healthz, responses=replies(HealthReply))
        add_route(app, "GET", "/readyz", self.readyz, responses=replies(ReadyReply))
        text: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}
        add_route(app, "GET", "/metrics", self.metrics, responses=text)

    async def search(self, request: Request) -> Response:
        """The passages nearest to one query, or to each of a batch."""
        # Described here, answered by the edge: see `SearchRoute`.
        raise AssertionError("the edge answers searches")

    async def answer(self, request: Request) -> Response:
        """An answer by the language model, from the passages found, with citations."""
        body = await read_body(request.scope, request.receive, self._settings)
        asked, stream = parse_answer(body, request.state.trace_id)
        asked = self._callers.with_caller(asked, request.scope)
        events = self._answers.events(ANSWER, asked, request, stream=stream)
        if stream:
            return self._answers.reply(ANSWER, events, request, NamedEvents())
        result = await unless_gone(request.receive, last_event(events))
        return json_response(render_answer(result))

    async def status(self) -> Response:
        """The region's releases, shards and replicas."""
        summary = await self._summary.fresh()
        if self._divergence is not None:
            summary = replace(summary, divergence=self._divergence())
        return json_response(render_status(summary))

    async def healthz(self) -> Response:
        """The process answers."""
        return json_response(b'{"status":"ok"}')

    async def readyz(self) -> Response:
        """The region can answer from a current release. While the coordinator is away or busy, what
        it said last counts, since serving goes on without it.
        """
        summary, age_s = await self._summary.last()
        if summary.release is None:
            raise Unavailable("this region has no release to serve yet; try again shortly")
        if not _able_to_answer(summary):
            raise Unavailable("this region lacks shards of its current release; see /v1/status")
        return json_response(render_ready(age_s))

    async def metrics(self) -> Response:
        """Prometheus metrics of this process."""
        try:
            self._metrics.observe_region(await self._summary.fresh())
        except RaygionError:
            self._metrics.observe_region(None)
        return Response(self._metrics.to_bytes(), media_type=CONTENT_TYPE)


def _open_to_pages(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    """Tells browsers that pages of these origins may use the interface. In front of the edge, since
    a browser asks without a key.
    """
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST", "PUT", "DELETE"),
        allow_headers=("*",),
        expose_headers=("x-trace-id", "x-request-id", "retry-after"),
    )


def _able_to_answer(summary: RegionSummary) -> bool:
    """False when some shard of the current release surely has no replica."""
    current = next((r for r in summary.resident if r.release == summary.release), None)
    return current is not None and all(c.replicas_serving >= c.shards for c in current.corpora)
