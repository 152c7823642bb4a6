"""OpenAI's interface: the same answers and vectors, in the words of its clients."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, aclosing

from fastapi import FastAPI, Request
from starlette.responses import Response

from cluster.clock import Clock
from cluster.errors import InvalidArgument, NotFound
from cluster.query.answers import AnswerEvent, AnswerRequest, AnswerResult, Retrieved, last_event
from cluster.quoting import quoted
from deployments.http.body import read_body
from deployments.http.caller import CallerReader
from deployments.http.openai.annotations import with_sources_listed
from deployments.http.openai.asking import AnswerForm, in_openai_words
from deployments.http.openai.chat import ChatBody, parse_chat
from deployments.http.openai.completions import (
    COMPLETIONS_EXAMPLES,
    CompletionChunks,
    CompletionsBody,
    CompletionsReply,
    parse_completions,
    render_completions,
)
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
from deployments.http.openai.reply_parts import ReplyHead
from deployments.http.routes import CHAT, COMPLETIONS, EMBEDDINGS
from deployments.http.schemas.route_descriptions import add_route, body_of, json_response, replies
from deployments.http.settings import HttpSettings
from deployments.http.shared_summary import SharedSummary
from deployments.http.slots import Slots
from deployments.http.streams.answer_streams import AnswerStreams
from deployments.http.streams.sse import unless_gone
from deployments.metering.metered_service import MeteredService


class OpenAIRoutes:
    """Serves OpenAI's clients."""

    def __init__(
        self,
        service: MeteredService,
        answers: AnswerStreams,
        summary: SharedSummary,
        settings: HttpSettings,
        callers: CallerReader,
        answer_slots: Slots,
        clock: Clock,
    ) -> None:
        self._service = service
        self._answers = answers
        self._summary = summary
        self._settings = settings
        self._callers = callers
        self._answer_slots = answer_slots
        self._clock = clock

    def add_to(self, app: FastAPI) -> None:
        stream = "Chunks as OpenAI's, then `[DONE]`."
        add_route(
            app,
            "POST",
            CHAT,
            self.chat,
            responses=replies(ChatReply, stream=stream),
            body=body_of(ChatBody, CHAT_EXAMPLES),
        )
        add_route(
            app,
            "POST",
            COMPLETIONS,
            self.completions,
            responses=replies(CompletionsReply, stream=stream),
            body=body_of(CompletionsBody, COMPLETIONS_EXAMPLES),
        )
        add_route(
            app,
            "POST",
            EMBEDDINGS,
            self.embeddings,
            responses=replies(EmbeddingsReply),
            body=body_of(EmbeddingsBody, EMBEDDINGS_EXAMPLES),
        )
        add_route(app, "GET", "/v1/models", self.models, responses=replies(ModelsReply))
        add_route(app, "GET", "/v1/models/{name:path}", self.model, responses=replies(ModelReply))

    async def chat(self, request: Request) -> Response:
        """OpenAI's chat: the model `raygion` with retrieval (`raygion/NAME` for the corpus of that
        name), the plain model's name without."""
        body = await read_body(request.scope, request.receive, self._settings)
        asked = parse_chat(body, request.state.trace_id)
        form = asked.form
        events = self._events(CHAT, form, asked.request, request, "messages")
        head = self._head("chatcmpl", form)
        if form.stream:
            chunks = ChatChunks(head, include_usage=form.include_usage)
            return self._answers.reply(CHAT, events, request, chunks)
        result = await unless_gone(request.receive, last_event(events))
        return json_response(render_chat(result, head))

    async def completions(self, request: Request) -> Response:
        """OpenAI's completions: each prompt is answered as a chat of one message is."""
        body = await read_body(request.scope, request.receive, self._settings)
        asked = parse_completions(body, request.state.trace_id)
        form = asked.form
        answers = [
            self._events(COMPLETIONS, form, each, request, "prompt") for each in asked.requests
        ]
        head = self._head("cmpl", form)
        if form.stream:
            chunks = CompletionChunks(head, include_usage=form.include_usage)
            return self._answers.reply(COMPLETIONS, answers[0], request, chunks)
        with self._slots_of(len(answers)):
            results = await unless_gone(request.receive, _all_of(answers))
        return json_response(render_completions(results, head))

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
        """The models that the chat and completions take."""
        return json_response(render_models(await self._model_names()))

    async def model(self, name: str) -> Response:
        """One of these models."""
        names = await self._model_names()
        if name not in names:
            raise _no_model(name, names)
        return json_response(render_model(name))

    async def _model_names(self) -> list[str]:
        summary, _ = await self._summary.last()
        current = next((r for r in summary.resident if r.release == summary.release), None)
        if current is None:
            return []
        return model_names(current.model, [corpus.corpus for corpus in current.corpora])

    def _head(self, prefix: str, form: AnswerForm) -> ReplyHead:
        return ReplyHead(
            id=f"{prefix}-{os.urandom(12).hex()}",
            created_s=self._clock.wall_ms() // 1000,
            model=form.model,
        )

    def _slots_of(self, num_answers: int) -> AbstractContextManager[None]:
        """Holds the slots of a request of so many answers; the edge has taken the first one."""
        if num_answers > self._answer_slots.most:
            raise InvalidArgument(
                f"holds {num_answers} prompts, and this gateway writes "
                f"{self._answer_slots.most} answers at once; send fewer in one request",
                "prompt",
            )
        return self._answer_slots.hold(num_answers - 1)

    def _events(
        self, route: str, form: AnswerForm, question: AnswerRequest, request: Request, field: str
    ) -> AsyncGenerator[AnswerEvent, None]:
        """The events of one answer. `field`: where the question stands in the body."""
        question = self._callers.with_caller(question, request.scope)
        events = self._answers.events(route, question, request, stream=form.stream)
        events = _of_model(events, None if question.retrieve else form.model, field)
        return with_sources_listed(events) if form.list_sources else events


async def _all_of(answers: Sequence[AsyncGenerator[AnswerEvent, None]]) -> list[AnswerResult]:
    """The whole answers, made side by side. The first error ends all of them."""
    writing = [asyncio.create_task(last_event(events)) for events in answers]
    try:
        return await asyncio.gather(*writing)
    finally:
        for task in writing:
            task.cancel()
        await asyncio.gather(*writing, return_exceptions=True)


async def _of_model(
    events: AsyncGenerator[AnswerEvent, None], model: str | None, field: str
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
            raise in_openai_words(error, field) from error


def _no_model(name: str, names: list[str]) -> NotFound:
    return NotFound(f"there is no model {quoted(name)!r}; there are: {', '.join(names) or 'none'}")
