"""The routes that regions have for each other: an answer that another region forwards, the
generating step of a region that has no model, the hint that the release log has grown, and how far
the region has come with the documents of a corpus.

Under the keys of the regions, where these have any; else under the same as all others. What comes
this way is never sent on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated

import orjson
from fastapi import FastAPI, Request
from pydantic import Field
from starlette.responses import Response

from cluster.clock import Clock, Deadline
from cluster.generation.generator import ChatMessage, GenerationChunk, GenerationRequest, Role
from cluster.mutations.watermark import Watermark
from cluster.query.answers import AnswerRequest
from cluster.regions.peers import PeerServices
from cluster.regions.wire import ANSWER, GENERATE, NUDGE, REACHED, position_json
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
from deployments.http.schemas.replies import HealthReply, ReachedReply
from deployments.http.schemas.route_descriptions import add_route, body_of, json_response, replies
from deployments.http.schemas.search import EmbeddedBody
from deployments.http.schemas.terms import Name, ReleaseNumber, TimeoutMs
from deployments.http.settings import HttpSettings
from deployments.http.streams.answer_streams import AnswerStreams
from deployments.http.streams.sse import NamedEvents, named_event, unless_gone

_TIMEOUT_DEFAULT_MS = 60_000
_REACHED_TIMEOUT_MS = 5_000
_REGIONS_MAX = 1024
_LogPosition = Annotated[int, Field(ge=0, le=2**63 - 1)]


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


class ReachedBody(Body):
    """What another region has written of a corpus's documents, or has seen."""

    corpus: Name
    watermark: Annotated[dict[Name, _LogPosition], Field(max_length=_REGIONS_MAX)]
    timeout_ms: TimeoutMs = _REACHED_TIMEOUT_MS


class RegionRoutes:
    """Serves the other regions."""

    def __init__(
        self,
        answers: AnswerStreams,
        peer_services: PeerServices,
        settings: HttpSettings,
        callers: CallerReader,
        clock: Clock,
    ) -> None:
        self._answers = answers
        self._peer_services = peer_services
        self._settings = settings
        self._callers = callers
        self._clock = clock

    def add_to(self, app: FastAPI) -> None:
        for path, does, body in (
            (ANSWER, self.answer, RegionAnswerBody),
            (GENERATE, self.generate, GenerateBody),
        ):
            add_route(
                app,
                "POST",
                path,
                does,
                responses=replies(str, stream="Events, with comments as signs of life."),
                body=body_of(body, {}),
            )
        add_route(app, "POST", NUDGE, self.nudge, responses=replies(HealthReply))
        add_route(
            app,
            "POST",
            REACHED,
            self.reached,
            responses=replies(ReachedReply),
            body=body_of(ReachedBody, {}),
        )

    async def answer(self, request: Request) -> Response:
        """Between regions: a forwarded question; always streamed."""
        body = await read_body(request.scope, request.receive, self._settings)
        asked = parse_body(RegionAnswerBody, body).to_request(request.state.trace_id)
        asked = self._callers.with_caller(asked, request.scope)
        events = self._answers.events(ANSWER, asked, request, stream=True)
        return self._answers.reply(ANSWER, events, request, NamedEvents())

    async def generate(self, request: Request) -> Response:
        """Between regions: the generating step of a region that runs no model."""
        body = await read_body(request.scope, request.receive, self._settings)
        asked = parse_body(GenerateBody, body)
        deadline = Deadline.after(asked.timeout_ms / 1000.0, self._clock)
        chunks = self._peer_services.generate(asked.release, asked.to_request(), deadline)
        return self._answers.alive(_chunk_events(chunks), request, NamedEvents())

    async def nudge(self) -> Response:
        """Between regions: the release log has grown, and is to be read now."""
        await self._peer_services.nudge()
        return json_response(b'{"status":"ok"}')

    async def reached(self, request: Request) -> Response:
        """Between regions: has the logs of a corpus's documents read now, and tells how far the
        region has come once it has applied them up to the watermark.
        """
        body = await read_body(request.scope, request.receive, self._settings)
        asked = parse_body(ReachedBody, body)
        deadline = Deadline.after(asked.timeout_ms / 1000.0, self._clock)
        reading = self._peer_services.reached(asked.corpus, Watermark.of(asked.watermark), deadline)
        return json_response(position_json(await unless_gone(request.receive, reading)))


async def _chunk_events(
    chunks: AsyncGenerator[GenerationChunk, None],
) -> AsyncGenerator[bytes, None]:
    async with aclosing(chunks):
        async for chunk in chunks:
            yield named_event(b"chunk", orjson.dumps(chunk))


def _messages(messages: list[MessageBody]) -> tuple[ChatMessage, ...]:
    return tuple(ChatMessage(role=message.role, content=message.content) for message in messages)
