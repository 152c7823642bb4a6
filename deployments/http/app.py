"""The HTTP interface of a region: routes over an EmbeddingService, and their OpenAPI page."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Lifespan

from cluster.clock import SYSTEM_CLOCK, Clock
from cluster.errors import InvalidArgument, NotFound, RaygionError, Unavailable
from cluster.query.answers import (
    AnswerEvent,
    AnswerRequest,
    EmbeddingService,
    Retrieved,
    last_event,
)
from cluster.quoting import quoted
from cluster.regions.divergence_report import DivergenceReport
from cluster.regions.peers import PeerServices
from cluster.regions.status import RegionSummary, StatusSource
from deployments.http.body import read_body
from deployments.http.caller import CallerReader
from deployments.http.edge import HttpEdge
from deployments.http.errors import refused_by_router
from deployments.http.openai.annotations import with_sources_listed
from deployments.http.openai.embeddings import (
    EMBEDDINGS_EXAMPLES,
    EmbeddingsBody,
    EmbeddingsReply,
    in_words_of_embeddings,
    parse_embeddings,
    render_embeddings,
)
from deployments.http.openai.replies import (
    CHAT_EXAMPLES,
    ChatChunks,
    ChatReply,
    ModelReply,
    ModelsReply,
    model_names,
    render_chat,
    render_model,
    render_models,
)
from deployments.http.openai.schema import ChatBody, in_words_of_chat, parse_chat
from deployments.http.region_routes import GenerateBody, RegionAnswerBody, RegionRoutes
from deployments.http.routes import ANSWER, CHAT, EMBEDDINGS, SEARCH
from deployments.http.schemas.answer import AnswerBody, parse_answer
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
from deployments.http.schemas.route_descriptions import REFERENCES, body_of, json_response, replies
from deployments.http.schemas.search import SearchBody
from deployments.http.search_route import SearchRoute
from deployments.http.settings import HttpSettings
from deployments.http.shared_summary import SharedSummary
from deployments.http.streams.alive_stream import SILENCE_LIMITS, SilenceLimits, alive
from deployments.http.streams.sse import (
    EventStream,
    NamedEvents,
    StreamFormat,
    event_chunks,
    unless_gone,
)
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
    silence: SilenceLimits = SILENCE_LIMITS,
) -> RegionApp:
    """The whole interface as one ASGI application, with metrics of its own. `status` tells how the
    region is; `peer_services` is what the other regions ask for; `lifespan` starts and stops what
    `service` needs; `divergence` tells how the regions' answers compare.
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
    _Routes(
        metered, status, settings, metrics, callers, clock, divergence, silence.to_callers_s
    ).add_to(app)
    if peer_services is not None:
        RegionRoutes(
            metered, peer_services, settings, metrics, callers, clock, silence.between_regions_s
        ).add_to(app)
    app.add_exception_handler(HTTPException, refused_by_router)

    def entrance(routes: ASGIApp) -> ASGIApp:
        app.edge = HttpEdge(
            routes,
            settings=settings,
            metrics=metrics,
            clock=clock,
            direct={("POST", SEARCH): SearchRoute(metered, settings, callers)},
            known_routes=frozenset(getattr(route, "path", "") for route in app.routes),
        )
        app.entrance = _open_to_pages(app.edge, settings.cors_origins)
        return app.entrance

    app.add_middleware(entrance)
    # Otherwise made with the first request, and the edge with it.
    app.middleware_stack = app.build_middleware_stack()
    return app


_BODIES = (SearchBody, AnswerBody, ChatBody, EmbeddingsBody, RegionAnswerBody, GenerateBody)


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
        service: MeteredService,
        status: StatusSource,
        settings: HttpSettings,
        metrics: HttpMetrics,
        callers: CallerReader,
        clock: Clock,
        divergence: Callable[[], DivergenceReport] | None,
        silence_s: float,
    ) -> None:
        self._service = service
        self._settings = settings
        self._metrics = metrics
        self._callers = callers
        self._clock = clock
        self._divergence = divergence
        self._silence_s = silence_s
        self._summary = SharedSummary(status, clock, timeout_s=settings.status_timeout_s)

    def add_to(self, app: FastAPI) -> None:
        def post(path: str, does: Callable[..., Any], **about: Any) -> None:
            app.add_api_route(path, does, methods=["POST"], response_class=Response, **about)

        def get(path: str, does: Callable[..., Any], **about: Any) -> None:
            app.add_api_route(path, does, methods=["GET"], response_class=Response, **about)

        post(
            SEARCH,
            self.search,
            responses=replies(SearchReply | BatchSearchReply),
            openapi_extra=body_of(SearchBody, SEARCH_EXAMPLES),
        )
        post(
            ANSWER,
            self.answer,
            responses=replies(AnswerReply, stream="Events `retrieved`, `token`, `done`, `error`."),
            openapi_extra=body_of(AnswerBody, ANSWER_EXAMPLES),
        )
        post(
            CHAT,
            self.chat,
            responses=replies(ChatReply, stream="Chunks as OpenAI's, then `[DONE]`."),
            openapi_extra=body_of(ChatBody, CHAT_EXAMPLES),
        )
        post(
            EMBEDDINGS,
            self.embeddings,
            responses=replies(EmbeddingsReply),
            openapi_extra=body_of(EmbeddingsBody, EMBEDDINGS_EXAMPLES),
        )
        get("/v1/models", self.models, responses=replies(ModelsReply))
        get("/v1/models/{name:path}", self.model, responses=replies(ModelReply))
        get("/v1/status", self.status, responses=replies(StatusReply))
        get("/healthz", self.healthz, responses=replies(HealthReply))
        get("/readyz", self.readyz, responses=replies(ReadyReply))
        get("/metrics", self.metrics, responses={200: {"content": {"text/plain": {}}}})

    async def search(self, request: Request) -> Response:
        """The passages nearest to one query, or to each of a batch."""
        # Described here, answered by the edge: see `SearchRoute`.
        raise AssertionError("the edge answers searches")

    async def answer(self, request: Request) -> Response:
        """An answer by the language model, from the passages found, with citations."""
        body = await read_body(request.scope, request.receive, self._settings)
        asked, stream = parse_answer(body, request.state.trace_id)
        events = self._events(
            ANSWER, self._callers.with_caller(asked, request.scope), request, stream
        )
        if stream:
            return self._stream(request, ANSWER, events, NamedEvents())
        result = await unless_gone(request.receive, last_event(events))
        return json_response(render_answer(result))

    async def chat(self, request: Request) -> Response:
        """OpenAI's chat: the model `raygion` with retrieval (`raygion/NAME` for the corpus of that
        name), the plain model's name without."""
        body = await read_body(request.scope, request.receive, self._settings)
        asked = parse_chat(body, request.state.trace_id)
        question = self._callers.with_caller(asked.request, request.scope)
        events = self._events(CHAT, question, request, asked.stream)
        events = _of_chat(events, None if question.retrieve else asked.model)
        if asked.list_sources:
            events = with_sources_listed(events)
        completion_id = f"chatcmpl-{os.urandom(12).hex()}"
        created_s = self._clock.wall_ms() // 1000
        if asked.stream:
            chunks = ChatChunks(
                model=asked.model,
                completion_id=completion_id,
                created_s=created_s,
                include_usage=asked.include_usage,
            )
            return self._stream(request, CHAT, events, chunks)
        result = await unless_gone(request.receive, last_event(events))
        reply = render_chat(
            result, model=asked.model, completion_id=completion_id, created_s=created_s
        )
        return json_response(reply)

    async def embeddings(self, request: Request) -> Response:
        """OpenAI's embeddings: the vectors that a search for these texts looks for."""
        body = await read_body(request.scope, request.receive, self._settings)
        asked = parse_embeddings(body, request.state.trace_id)
        try:
            embedding = self._service.embed(asked.request, asked.dimensions)
            result = await unless_gone(request.receive, embedding)
        except InvalidArgument as error:
            raise in_words_of_embeddings(error) from error
        return json_response(render_embeddings(result, asked))

    async def models(self) -> Response:
        """The models that `/v1/chat/completions` takes."""
        return json_response(render_models(await self._model_names()))

    async def model(self, name: str) -> Response:
        """One of these models."""
        names = await self._model_names()
        if name not in names:
            raise _no_model(name, names)
        return json_response(render_model(name))

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

    async def _model_names(self) -> list[str]:
        summary, _ = await self._summary.last()
        current = next((r for r in summary.resident if r.release == summary.release), None)
        if current is None:
            return []
        return model_names(current.model, [corpus.corpus for corpus in current.corpora])

    def _events(
        self, route: str, asked: AnswerRequest, request: Request, stream: bool
    ) -> AsyncGenerator[AnswerEvent, None]:
        started_s = request.state.started_s if stream else None
        return self._service.answer_events(route, asked, streamed_since_s=started_s)

    def _stream(
        self,
        request: Request,
        route: str,
        events: AsyncGenerator[AnswerEvent, None],
        form: StreamFormat,
    ) -> Response:
        trace_id = request.state.trace_id
        ended = partial(self._metrics.stream_ended, route)
        chunks = event_chunks(events, form, trace_id, ended=ended)
        return EventStream(alive(chunks, form, trace_id, every_s=self._silence_s))


def _open_to_pages(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    """Tells browsers that pages of these origins may use the interface. In front of the edge, since
    a browser asks without a key.
    """
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        expose_headers=("x-trace-id", "x-request-id", "retry-after"),
    )


async def _of_chat(
    events: AsyncGenerator[AnswerEvent, None], model: str | None
) -> AsyncGenerator[AnswerEvent, None]:
    """The events, if the release's model has this name, or any may have written them (None). The
    model is known before it writes.
    """
    async with aclosing(events):
        try:
            async for event in events:
                if isinstance(event, Retrieved) and model not in (None, event.model):
                    raise _no_model(str(model), model_names(event.model))
                yield event
        except InvalidArgument as error:
            raise in_words_of_chat(error) from error


def _no_model(name: str, names: list[str]) -> NotFound:
    return NotFound(f"there is no model {quoted(name)!r}; there are: {', '.join(names) or 'none'}")


def _able_to_answer(summary: RegionSummary) -> bool:
    """False when some shard of the current release surely has no replica."""
    current = next((r for r in summary.resident if r.release == summary.release), None)
    return current is not None and all(c.replicas_serving >= c.shards for c in current.corpora)
