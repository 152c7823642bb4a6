"""The routes that regions have for each other: an answer that another region forwards, the
generating step of a region that has no model, the hint that the release log has grown.

Under the keys of the regions, where these have any; else under the same as all others. What comes
this way is never sent on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Annotated

import orjson
from fastapi import FastAPI, Request
from pydantic import Field
from starlette.responses import Response

from cluster.clock import Clock, Deadline
from cluster.generation.generator import ChatMessage, GenerationChunk, GenerationRequest, Role
from cluster.query.answers import AnswerRequest
from cluster.regions.peers import PeerServices
from cluster.regions.wire import ANSWER, GENERATE, NUDGE
from cluster.search.checks import (
    CONVERSATION_CHARS_MAX,
    MESSAGES_MAX,
    PROMPT_CHARS_MAX,
    PROMPT_MESSAGES_MAX,
)
from deployments.http.body import read_body
from deployments.http.caller import CallerReader
from deployments.http.schemas.answer import (
    AnswerBody,
    MaxTokens,
    SamplingOptions,
    StopTexts,
    Temperature,
)
from deployments.http.schemas.json_body import Body, parse_body
from deployments.http.schemas.replies import HealthReply
from deployments.http.schemas.route_descriptions import body_of, json_response, replies
from deployments.http.schemas.search import EmbeddedBody
from deployments.http.schemas.terms import Name, ReleaseNumber, TimeoutMs
from deployments.http.settings import HttpSettings
from deployments.http.streams.alive_stream import alive
from deployments.http.streams.sse import EventStream, NamedEvents, event_chunks, named_event
from deployments.metering.metered_service import MeteredService
from deployments.metering.metrics import HttpMetrics

_TIMEOUT_DEFAULT_MS = 60_000


class MessageBody(Body):
    role: Role
    content: str


History = Annotated[list[MessageBody], Field(fail_fast=True, max_length=MESSAGES_MAX - 1)]
Messages = Annotated[
    list[MessageBody], Field(fail_fast=True, min_length=1, max_length=PROMPT_MESSAGES_MAX)
]


class RegionAnswerBody(AnswerBody, SamplingOptions):
    """A question as another region forwards it."""

    question: Annotated[str, Field(min_length=1, max_length=CONVERSATION_CHARS_MAX)]
    embedded: EmbeddedBody | None = Field(None, description="The vector of the question.")
    retrieve: bool = Field(True, description="False asks the plain model.")
    history: History = Field(default_factory=list, description="Earlier messages, oldest first.")
    stop: StopTexts = Field(default_factory=list)

    def to_request(self, trace_id: str) -> AnswerRequest:
        return replace(
            super().to_request(trace_id),
            embedded=None if self.embedded is None else self.embedded.to_embedded(1),
            retrieve=self.retrieve,
            history=_messages(self.history),
            stop=tuple(self.stop),
            **self.sampling(),
        )


class GenerateBody(SamplingOptions):
    """A prompt for the generator of a release."""

    release: ReleaseNumber
    messages: Messages
    max_tokens: MaxTokens
    temperature: Temperature = 0.0
    request_id: Name
    stop: StopTexts = Field(default_factory=list)
    begun: Annotated[str, Field(max_length=PROMPT_CHARS_MAX)] = Field(
        "", description="The beginning of the answer, written elsewhere before."
    )
    timeout_ms: TimeoutMs = _TIMEOUT_DEFAULT_MS

    def to_request(self) -> GenerationRequest:
        return GenerationRequest(
            messages=_messages(self.messages),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            request_id=self.request_id,
            stop=tuple(self.stop),
            **self.sampling(),
            begun=self.begun,
        )


class RegionRoutes:
    """Serves the other regions."""

    def __init__(
        self,
        service: MeteredService,
        peer_services: PeerServices,
        settings: HttpSettings,
        metrics: HttpMetrics,
        callers: CallerReader,
        clock: Clock,
        silence_s: float,
    ) -> None:
        """`silence_s`: longest silence of a stream."""
        self._service = service
        self._peer_services = peer_services
        self._settings = settings
        self._metrics = metrics
        self._callers = callers
        self._clock = clock
        self._silence_s = silence_s

    def add_to(self, app: FastAPI) -> None:
        for path, does, body in (
            (ANSWER, self.answer, RegionAnswerBody),
            (GENERATE, self.generate, GenerateBody),
        ):
            app.add_api_route(
                path,
                does,
                methods=["POST"],
                response_class=Response,
                responses=replies(str, stream="Events, with comments as signs of life."),
                openapi_extra=body_of(body, {}),
            )
        app.add_api_route(
            NUDGE,
            self.nudge,
            methods=["POST"],
            response_class=Response,
            responses=replies(HealthReply),
        )

    async def answer(self, request: Request) -> Response:
        """Between regions: a forwarded question; always streamed."""
        body = await read_body(request.scope, request.receive, self._settings)
        asked = parse_body(RegionAnswerBody, body).to_request(request.state.trace_id)
        asked = self._callers.with_caller(asked, request.scope)
        started_s = request.state.started_s
        events = self._service.answer_events(ANSWER, asked, streamed_since_s=started_s)
        trace_id = request.state.trace_id
        form = NamedEvents()
        ended = partial(self._metrics.stream_ended, ANSWER)
        chunks = event_chunks(events, form, trace_id, ended=ended)
        return EventStream(alive(chunks, form, trace_id, every_s=self._silence_s))

    async def generate(self, request: Request) -> Response:
        """Between regions: the generating step of a region that runs no model."""
        body = await read_body(request.scope, request.receive, self._settings)
        asked = parse_body(GenerateBody, body)
        deadline = Deadline.after(asked.timeout_ms / 1000.0, self._clock)
        chunks = self._peer_services.generate(asked.release, asked.to_request(), deadline)
        trace_id = request.state.trace_id
        events = _chunk_events(chunks)
        return EventStream(alive(events, NamedEvents(), trace_id, every_s=self._silence_s))

    async def nudge(self) -> Response:
        """Between regions: the release log has grown, and is to be read now."""
        await self._peer_services.nudge()
        return json_response(b'{"status":"ok"}')


async def _chunk_events(
    chunks: AsyncGenerator[GenerationChunk, None],
) -> AsyncGenerator[bytes, None]:
    async with aclosing(chunks):
        async for chunk in chunks:
            yield named_event(b"chunk", orjson.dumps(chunk))


def _messages(messages: list[MessageBody]) -> tuple[ChatMessage, ...]:
    return tuple(ChatMessage(role=message.role, content=message.content) for message in messages)
