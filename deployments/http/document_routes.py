"""The routes for single documents: write, delete, read, and follow how they change."""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.responses import Response

from cluster.clock import Clock, Deadline
from cluster.deltas.cursor import BEGINNING, parse_cursor
from cluster.deltas.document_service import Acknowledgement, DocumentService, WriteRequest
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
from deployments.http.streams.alive_stream import alive
from deployments.http.streams.change_stream import change_events
from deployments.http.streams.sse import EventStream, NamedEvents, unless_gone

IDEMPOTENCY_KEY = b"idempotency-key"
LAST_EVENT_ID = b"last-event-id"
STREAM_S = 300.0
"""So long a stream of changes lasts; readers of events connect again by themselves. A gateway that
is to end waits for the streams that it has begun.
"""


class DocumentRoutes:
    def __init__(
        self,
        documents: DocumentService,
        settings: HttpSettings,
        clock: Clock,
        *,
        silence_s: float,
        stream_s: float = STREAM_S,
    ) -> None:
        """`silence_s`: longest silence of a stream."""
        self._documents = documents
        self._settings = settings
        self._clock = clock
        self._silence_s = silence_s
        self._stream_s = stream_s

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
        asked = parse_body(PutBody, body)
        return await self._written(
            request,
            asked.documents,
            corpus=asked.corpus,
            wait=asked.acknowledgement(),
            timeout_ms=asked.timeout_ms,
        )

    async def delete(self, request: Request) -> Response:
        """Deletes a document. One that does not exist is no error."""
        asked = validated_query(DeleteQuery, query_fields(request.scope["query_string"]))
        document = {
            "id": request.path_params["id"],
            "delete": True,
            "if_version": asked.if_version,
            "timestamp_ms": asked.timestamp_ms,
        }
        return await self._written(
            request,
            [document],
            corpus=asked.corpus,
            wait=asked.acknowledgement(),
            timeout_ms=asked.timeout_ms,
        )

    async def _written(
        self,
        request: Request,
        documents: list[object],
        *,
        corpus: str,
        wait: Acknowledgement,
        timeout_ms: int,
    ) -> Response:
        trace_id: str = request.state.trace_id
        keys = header_values(request.scope, IDEMPOTENCY_KEY)
        writes = parse_writes(documents, keys[0].decode("latin-1") if keys else None)
        asked = WriteRequest(
            corpus=corpus,
            writes=tuple(writes),
            wait=wait,
            timeout_s=timeout_ms / 1000.0,
            trace_id=trace_id,
        )
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
        last = header_value(request.scope, LAST_EVENT_ID).decode("latin-1")
        if last:
            after = parse_cursor(last, LAST_EVENT_ID.decode())
        else:
            after = parse_cursor(asked.after or BEGINNING, "after")
        deadline = Deadline.after(self._stream_s, self._clock)
        changes = self._documents.changes(request.path_params["corpus"], after)
        events = change_events(changes, deadline)
        living = alive(events, NamedEvents(), request.state.trace_id, every_s=self._silence_s)
        return EventStream(living)
