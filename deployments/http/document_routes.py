"""The routes for single documents: write, delete, read, and follow how they change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from fastapi import FastAPI, Request
from starlette.responses import Response

from cluster.clock import Clock, Deadline
from cluster.deltas.cursor import BEGINNING, parse_cursor
from cluster.deltas.document_service import DocumentService, WriteRequest
from cluster.documents.write_checks import parse_writes
from deployments.http.body import header_value, header_values, read_body
from deployments.http.routes import CHANGES, DOCUMENT, DOCUMENTS
from deployments.http.schemas.documents import (
    PUT_EXAMPLES,
    ChangesQuery,
    DeleteQuery,
    DocumentReply,
    FailedWriteReply,
    GetQuery,
    PutBody,
    WriteReply,
    render_document,
    render_write,
)
from deployments.http.schemas.json_body import parse_body, query_fields, validated_query
from deployments.http.schemas.route_descriptions import (
    add_route,
    body_of,
    json_response,
    parameters_of,
    replies,
)
from deployments.http.settings import HttpSettings
from deployments.http.slots import Slots
from deployments.http.streams.alive_stream import alive
from deployments.http.streams.change_stream import change_events
from deployments.http.streams.sse import EventStream, NamedEvents, unless_gone

_IDEMPOTENCY_KEY = b"idempotency-key"
_LAST_EVENT_ID = b"last-event-id"
_STREAM_S = 300.0
"""So long a stream of changes lasts; readers of events connect again by themselves. A gateway that
is to end waits for the streams that it has begun.
"""
STREAMS_MAX = 64
"""Streams of changes of one gateway: they last, and must leave room for searches."""
_BRIEF_BYTES = 64 * 1024
"""Longest body that is read on the spot: a long one takes up to a second, in which searches go on.
"""


class DocumentRoutes:
    def __init__(
        self,
        documents: DocumentService,
        settings: HttpSettings,
        clock: Clock,
        *,
        silence_s: float,
    ) -> None:
        """`silence_s`: longest silence of a stream."""
        self._documents = documents
        self._settings = settings
        self._clock = clock
        self._silence_s = silence_s
        self._streams = Slots(
            STREAMS_MAX, "this gateway tells changes to as many readers as it can"
        )

    def add_to(self, app: FastAPI) -> None:
        written = replies(WriteReply)
        written |= {
            202: {"model": WriteReply, "description": "Written; `unmet` says what is still open."},
            207: {"model": WriteReply, "description": "Some are written; each has its own result."},
            "default": {"model": FailedWriteReply, "description": "Nothing is written."},
        }
        add_route(
            app,
            "PUT",
            DOCUMENTS,
            self.put,
            responses=written,
            body=body_of(PutBody, PUT_EXAMPLES),
        )
        add_route(
            app,
            "DELETE",
            DOCUMENT,
            self.delete,
            responses=written,
            body=parameters_of(DeleteQuery, "id"),
        )
        add_route(
            app,
            "GET",
            DOCUMENT,
            self.get,
            responses=replies(DocumentReply),
            body=parameters_of(GetQuery, "id"),
        )
        add_route(
            app,
            "GET",
            CHANGES,
            self.changes,
            responses=replies(str, stream="Events `change`, `current`, `error`."),
            body=parameters_of(ChangesQuery, "corpus"),
        )

    async def put(self, request: Request) -> Response:
        """Writes documents, each as a whole: a new one, or another version of one."""
        body = await read_body(request.scope, request.receive, self._settings)
        key, trace_id = _key(request), request.state.trace_id
        if len(body) > _BRIEF_BYTES:
            documents, asked = await asyncio.to_thread(_parsed, body, key, trace_id)
        else:
            documents, asked = _parsed(body, key, trace_id)
        return await self._written(documents, asked)

    async def delete(self, request: Request) -> Response:
        """Deletes a document. One that does not exist is no error."""
        asked = validated_query(DeleteQuery, query_fields(request.scope["query_string"]))
        document = asked.document(request.path_params["id"])
        writes = parse_writes([document], _key(request))
        return await self._written([document], asked.to_request(writes, request.state.trace_id))

    async def _written(self, documents: Sequence[object], asked: WriteRequest) -> Response:
        result = await self._documents.write(asked)
        status, headers, body = render_write(documents, result)
        return Response(body, status, headers, media_type="application/json")

    async def get(self, request: Request) -> Response:
        """A document as it is now: written last, or else as it was built."""
        asked = validated_query(GetQuery, query_fields(request.scope["query_string"]))
        found = await unless_gone(
            request.receive,
            self._documents.document(
                asked.corpus,
                request.path_params["id"],
                asked.timeout_ms / 1000.0,
                request.state.trace_id,
            ),
        )
        return json_response(render_document(found))

    async def changes(self, request: Request) -> Response:
        """The documents that change, as events; resumed by the id of the last one."""
        asked = validated_query(ChangesQuery, query_fields(request.scope["query_string"]))
        last = header_value(request.scope, _LAST_EVENT_ID).decode("latin-1")
        if last:
            after = parse_cursor(last, _LAST_EVENT_ID.decode())
        else:
            after = parse_cursor(asked.after or BEGINNING, "after")
        deadline = Deadline.after(_STREAM_S, self._clock)
        changes = self._documents.changes(request.path_params["corpus"], after)
        events = self._in_slot(change_events(changes, deadline))
        living = alive(events, NamedEvents(), request.state.trace_id, every_s=self._silence_s)
        return EventStream(living)

    async def _in_slot(self, events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async with aclosing(events):
            with self._streams.hold():
                async for event in events:
                    yield event


def _parsed(body: bytes, key: str | None, trace_id: str) -> tuple[list[object], WriteRequest]:
    """The documents of a body, and what is asked of the region."""
    asked = parse_body(PutBody, body)
    return asked.documents, asked.to_request(parse_writes(asked.documents, key), trace_id)


def _key(request: Request) -> str | None:
    keys = header_values(request.scope, _IDEMPOTENCY_KEY)
    return keys[0].decode("latin-1") if keys else None
