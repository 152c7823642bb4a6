"""`POST /v1/search`, the hot path: plain ASGI, from the body's bytes to the reply's.

It is asked thousands of times a second, and a framework's way to a handler and back costs more CPU
than a search does.
"""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from cluster.answers import QueryService
from cluster.search import SearchRequest
from deployments.http_binary import ARROW_TYPE, FLOAT32_TYPE, parse_binary, render_arrow
from deployments.http_body import header_value, read_body
from deployments.http_replies import render_search
from deployments.http_schema import parse_search
from deployments.http_settings import HttpSettings
from deployments.metrics import HttpMetrics

SEARCH = "/v1/search"


class SearchRoute:
    """Searches for one query, or for each of a batch."""

    def __init__(self, service: QueryService, settings: HttpSettings, metrics: HttpMetrics) -> None:
        self._service = service
        self._settings = settings
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises the errors of `cluster.errors`, and ClientGone."""
        body = await read_body(scope, receive, self._settings)
        asked, is_batch = _parse(scope, body)
        result = await self._service.search(asked)
        self._metrics.searched(SEARCH, result)
        if result.arrays is not None:
            await _reply(send, ARROW_TYPE, render_arrow(result, result.arrays))
        else:
            await _reply(send, "application/json", render_search(result, is_batch))


def _parse(scope: Scope, body: bytes) -> tuple[SearchRequest, bool]:
    trace_id: str = scope["state"]["trace_id"]
    passages = header_value(scope, b"accept") != ARROW_TYPE.encode()
    if header_value(scope, b"content-type") == FLOAT32_TYPE.encode():
        return parse_binary(scope["query_string"], body, trace_id, passages=passages), True
    return parse_search(body, trace_id, passages=passages)


async def _reply(send: Send, media_type: str, body: bytes) -> None:
    headers = [
        (b"content-type", media_type.encode()),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
