"""From an exception to the reply that the caller gets: status, headers and one body for all routes.

    {"error": {"code", "message", "retryable", "type", "param", "trace_id", "field"?}}

`type` and `param` are what OpenAI's clients look for. Only errors that were written for the user
show their message; everything else, broken data included, becomes a general sentence, and the
details go to the log under the trace id.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from cluster.errors import (
    OutcomeUnknown,
    Overloaded,
    RaygionError,
    Unauthenticated,
    Unavailable,
)
from cluster.logs.events import EventLog

log = EventLog(__name__)

_INSTEAD = {
    "/v1/responses": "POST /v1/chat/completions",
}
"""Routes to ask in place of OpenAI's routes that are not here."""
NO_ROUTE = "there is no such route; /openapi.json lists all"
INTERNAL_MESSAGE = "the region failed to answer; its log tells more under this trace id"
_UNKNOWN_MESSAGE = (
    "whether this was written is not known; read it back, or send it again with the same key"
)
_RETRY_UNAVAILABLE_S = 1.0


class ClientGone(Exception):
    """The client closed the connection before its answer was complete; nobody reads a reply."""


def http_status(error: Exception) -> int:
    return error.http_status if isinstance(error, RaygionError) else 500


def error_body(error: Exception, trace_id: str) -> bytes:
    """The JSON body of any error."""
    return orjson.dumps({"error": error_fields(error, trace_id)})


def error_fields(error: Exception, trace_id: str) -> dict[str, str | bool | None]:
    """The facts of an error that its caller may know. An error that came out of an actor may print
    as a traceback, so only its `message` is used, never `str(error)`.
    """
    status = http_status(error)
    code = error.code if isinstance(error, RaygionError) else RaygionError.code
    field = getattr(error, "field", None) if isinstance(error, RaygionError) else None
    if isinstance(error, RaygionError) and status != 500:
        message = f"{field}: {error.message}" if field else error.message
    elif isinstance(error, OutcomeUnknown):
        message = _UNKNOWN_MESSAGE
    else:
        message = INTERNAL_MESSAGE
    retryable = isinstance(error, RaygionError) and error.retryable
    return _fields(status, code, message, retryable, field, trace_id)


def error_response(error: Exception, trace_id: str) -> Response:
    return Response(
        error_body(error, trace_id),
        status_code=http_status(error),
        headers=error_headers(error),
        media_type="application/json",
    )


def error_headers(error: Exception) -> dict[str, str]:
    """A retryable refusal carries Retry-After in whole seconds, at least 1."""
    headers: dict[str, str] = {}
    if isinstance(error, Overloaded):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    elif isinstance(error, Unavailable):
        headers["retry-after"] = str(max(1, math.ceil(_RETRY_UNAVAILABLE_S)))
    elif isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    return headers


async def refused_by_router(request: Request, error: Exception) -> Response:
    """FastAPI's handler for unknown paths and methods."""
    assert isinstance(error, HTTPException)
    match error.status_code:
        case 404:
            instead = _INSTEAD.get(request.url.path)
            code = "not_found"
            message = NO_ROUTE if instead is None else f"there is no such route; use {instead}"
        case 405:
            code, message = "method_not_allowed", "this route does not take this method"
        case _:
            code, message = "invalid_argument", "the request cannot be read"
    headers: Mapping[str, str] | None = error.headers
    fields = _fields(error.status_code, code, message, False, None, request.state.trace_id)
    return Response(
        orjson.dumps({"error": fields}),
        status_code=error.status_code,
        headers=headers,
        media_type="application/json",
    )


def log_failure(error: Exception) -> None:
    """Writes a failure of ours with its traceback; what callers do wrong is no event."""
    if http_status(error) == 500:
        log.error("request.failed", "a request failed: {error}", error=error, traceback_of=error)


def _fields(
    status: int, code: str, message: str, retryable: bool, field: str | None, trace_id: str
) -> dict[str, str | bool | None]:
    error: dict[str, str | bool | None] = {
        "code": code,
        "message": message,
        "retryable": retryable,
        "type": _openai_type(status),
        "param": field,
        "trace_id": trace_id,
    }
    if field is not None:
        error["field"] = field
    return error


def _openai_type(status: int) -> str:
    if status == 401:
        return "authentication_error"
    return "server_error" if status >= 500 else "invalid_request_error"
