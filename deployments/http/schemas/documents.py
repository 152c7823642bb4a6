"""The bodies of the routes for single documents, and their replies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, Field, WithJsonSchema

from cluster.deltas.document_service import (
    READ_TIMEOUT_S,
    WRITE_TIMEOUT_S,
    Acknowledgement,
    StoredDocument,
    WriteRequest,
    WriteResult,
)
from cluster.documents.write_checks import WRITES_MAX
from cluster.errors import InvalidArgument, RaygionError
from cluster.mutations.requests import DocumentWrite
from cluster.query.terms import TIMEOUT_S_MAX
from deployments.http.errors import error_fields, error_headers, http_status
from deployments.http.schemas.json_body import Body
from deployments.http.schemas.replies import ErrorDetail, ErrorReply
from deployments.http.schemas.terms import Name

_WRITE_TIMEOUT_MS = int(WRITE_TIMEOUT_S * 1000)
_READ_TIMEOUT_MS = int(READ_TIMEOUT_S * 1000)
_CURSOR_LENGTH_MAX = 8192

_DOCUMENT_SCHEMA = {
    "type": "object",
    "required": ["id"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "string", "description": "At most 512 bytes."},
        "text": {"type": "string"},
        "metadata": {"type": "object", "description": "Strings, numbers, booleans, null."},
        "vector": {
            "type": "array",
            "items": {"type": "number"},
            "description": "In a corpus whose documents bring their vectors, and nowhere else.",
        },
        "delete": {"type": "boolean", "description": "Deletes the document; it has an id alone."},
        "if_version": {
            "type": "string",
            "description": "The version that the document must have; `absent`: none.",
        },
        "key": {"type": "string", "description": "Idempotency key of this document alone."},
        "timestamp_ms": {"type": "integer", "description": "The caller's own time."},
    },
}
# What is wrong with one document is told of that one: see `cluster.documents.write_checks`.
_AnyDocument = Annotated[Any, WithJsonSchema(_DOCUMENT_SCHEMA)]
_Documents = Annotated[
    list[_AnyDocument], Field(fail_fast=True, min_length=1, max_length=WRITES_MAX)
]
_Milliseconds = Annotated[int, Field(ge=1, le=int(TIMEOUT_S_MAX * 1000))]
_Wait = Literal["durable", "visible", "quorum", "all"]


class _WriteOptions(Body):
    corpus: Name
    wait: _Wait = Field(
        "durable",
        description="When to reply: the write is in the store; all that searches in this region "
        "shows it; a majority of the regions does; all regions do.",
    )
    timeout_ms: _Milliseconds = Field(_WRITE_TIMEOUT_MS, description="Time for the whole request.")

    def to_request(
        self, writes: Sequence[DocumentWrite | InvalidArgument], trace_id: str
    ) -> WriteRequest:
        return WriteRequest(
            corpus=self.corpus,
            writes=tuple(writes),
            wait=Acknowledgement(self.wait),
            timeout_s=self.timeout_ms / 1000.0,
            trace_id=trace_id,
        )


class PutBody(_WriteOptions):
    """Documents to write or to delete, each as a whole."""

    documents: _Documents


class DeleteQuery(_WriteOptions):
    """The fields of a URL that deletes a document."""

    if_version: Name | None = None
    timestamp_ms: int | None = None

    def document(self, id: str) -> dict[str, object]:
        """The document as a body of several would have it."""
        given = {"if_version": self.if_version, "timestamp_ms": self.timestamp_ms}
        return {"id": id, "delete": True, **given}


class GetQuery(Body):
    """The fields of a URL that reads a document."""

    corpus: Name
    timeout_ms: _Milliseconds = _READ_TIMEOUT_MS


class ChangesQuery(Body):
    """The fields of a URL that follows changes."""

    after: Annotated[str, Field(max_length=_CURSOR_LENGTH_MAX)] | None = Field(
        None, description="The id of an event: the changes behind it; null: all that are kept."
    )


def render_write(
    documents: Sequence[object], result: WriteResult
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the reply to a request to write these documents.

    200: all are written, and acknowledged as far as was asked. 202: all are written, but not
    acknowledged so far. 207: some are written. None is written: the status of their errors, those
    before the others with which the same request may succeed later.
    """
    errors, num_written = result.errors, len(result.outcomes) - len(result.errors)
    reply: dict[str, object] = {
        "documents": list(_ends(documents, result)),
        "written": num_written,
        "failed": len(errors),
        "acknowledged": result.acknowledged if num_written else None,
        "region": result.region,
        "took_ms": round(result.took_ms, 3),
        "session": result.session,
        "trace_id": result.trace_id,
    }
    if not num_written:
        error = next((error for error in errors if error.retryable), errors[0])
        body = orjson.dumps({"error": error_fields(error, result.trace_id), **reply})
        return http_status(error), error_headers(error), body
    if result.unmet is not None:
        reply["unmet"] = error_fields(result.unmet, result.trace_id)
    status = 207 if errors else 200 if result.unmet is None else 202
    return status, {}, orjson.dumps(reply)


def _ends(documents: Sequence[object], result: WriteResult) -> Iterator[dict[str, object]]:
    for raw, outcome in zip(documents, result.outcomes, strict=True):
        found = raw.get("id") if isinstance(raw, dict) else None
        told: dict[str, object] = {"id": found if isinstance(found, str | int) else None}
        if isinstance(outcome, RaygionError):
            fields = error_fields(outcome, result.trace_id)
            kept = ("code", "message", "retryable", "field")
            told["error"] = {key: fields[key] for key in kept if key in fields}
        else:
            told |= {"version": str(outcome.version), "position": outcome.position}
            if outcome.is_repeated:
                told["repeated"] = True
        yield told


def render_document(found: StoredDocument) -> bytes:
    return orjson.dumps(
        {
            "id": found.id,
            "text": found.text,
            "metadata": found.metadata,
            "version": None if found.version is None else str(found.version),
            "changed_ms": None if found.version is None else found.version.wall_ms,
            "passages": found.num_passages,
            "embedded": found.is_embedded,
            "region": found.region,
            "trace_id": found.trace_id,
        },
        default=dict,
    )


class DocumentErrorReply(BaseModel):
    code: str
    message: str
    retryable: bool
    field: str | None = Field(None, description="The path of what is wrong in the document.")


class DocumentEndReply(BaseModel):
    """What became of one document: it has either a version or an error."""

    id: str | int | None
    version: str | None = Field(None, description="Names this state of the document.")
    position: int | None = Field(None, description="In the log of the region that wrote.")
    repeated: bool | None = Field(None, description="True: written before, by the same key.")
    error: DocumentErrorReply | None = None


class WriteReply(BaseModel):
    documents: list[DocumentEndReply] = Field(description="In the order of the request.")
    written: int
    failed: int
    acknowledged: _Wait | None = Field(
        None, description="How far what is written has come; null where nothing is."
    )
    unmet: ErrorDetail | None = Field(
        None, description="Why it has not come as far as was asked; it does so by itself."
    )
    region: str
    took_ms: float
    session: str = Field(description="A token for `session`: not older than these writes.")
    trace_id: str


class FailedWriteReply(ErrorReply):
    """The reply when no document was written."""

    documents: list[DocumentEndReply] | None = None


class DocumentReply(BaseModel):
    id: str
    text: str
    metadata: dict[str, str | int | float | bool | None]
    version: str | None = Field(description="Null: as it was built, and never written since.")
    changed_ms: int | None = Field(description="When that version was written.")
    passages: int | None = Field(description="Null where the index alone knows.")
    embedded: bool = Field(
        description="False while the current release has another embedder than the document."
    )
    region: str
    trace_id: str


PUT_EXAMPLES: dict[str, Any] = {
    "upsert": {
        "value": {
            "corpus": "tickets",
            "documents": [{"id": "T-1", "text": "The lift is out.", "metadata": {"state": "open"}}],
            "wait": "visible",
        }
    },
    "several, one of them deleted": {
        "value": {
            "corpus": "tickets",
            "documents": [
                {"id": "T-2", "text": "A new ticket.", "if_version": "absent"},
                {"id": "T-1", "delete": True},
            ],
        }
    },
}
