"""`POST /v1/search`, the hot path: plain ASGI, from the body's bytes to the reply's.

It is asked thousands of times a second, and a framework's way to a handler and back costs more CPU
than a search does.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Receive, Scope, Send

from cluster.query.search import REPLY_BYTES_MAX, SearchRequest
from cluster.regions.wire import ARROW_TYPE, FLOAT32_TYPE, JSON_TYPE, SEARCH
from cluster.search.checks import reply_too_large
from deployments.http.body import body_is_late, media_types, receive_body
from deployments.http.caller import CallerReader
from deployments.http.errors import ClientGone
from deployments.http.schemas.binary import parse_binary, render_arrow
from deployments.http.schemas.replies import render_search
from deployments.http.schemas.search import ReplyForm, parse_search
from deployments.http.settings import HttpSettings
from deployments.metering.metered_service import MeteredService

_WATCH_AFTER_S = 0.5


class SearchRoute:
    """Searches for one query, or for each of a batch."""

    def __init__(
        self,
        service: MeteredService,
        settings: HttpSettings,
        callers: CallerReader,
    ) -> None:
        self._service = service
        self._settings = settings
        self._callers = callers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises the errors of `cluster.errors`, and ClientGone."""
        media_type, body = await self._answer(scope, receive)
        if len(body) > REPLY_BYTES_MAX:
            raise reply_too_large()
        headers = [
            (b"content-type", media_type.encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[str, memoryview | bytes]:
        """The media type and the body of the reply. Nothing else is held while that is sent."""
        as_arrow = ARROW_TYPE in media_types(scope, b"accept")
        async with _Attended(receive, self._settings) as client:
            body = await receive_body(scope, receive, self._settings.body_bytes_max)
            client.has_asked()
            asked, form = _parse(scope, body, passages=not as_arrow)
            result = await self._service.search(SEARCH, self._callers.with_caller(asked, scope))
        if as_arrow and result.arrays is not None:
            return ARROW_TYPE, render_arrow(result, result.arrays)
        return JSON_TYPE, render_search(result, form)


def _parse(scope: Scope, body: bytes, *, passages: bool) -> tuple[SearchRequest, ReplyForm]:
    trace_id: str = scope["state"]["trace_id"]
    if FLOAT32_TYPE in media_types(scope, b"content-type"):
        return parse_binary(scope["query_string"], body, trace_id, passages=passages)
    return parse_search(body, trace_id, passages=passages)


class _Attended:
    """Gives the block up once the client is gone, and raises ClientGone; or when its request has
    not arrived in time, and raises DeadlineExceeded.

    It begins to look after a while only: most replies are out by then, and a look costs a task. One
    timer for both, since one costs as much as a hundredth of a search, and `asyncio.timeout` three.
    """

    def __init__(self, receive: Receive, settings: HttpSettings) -> None:
        self._receive = receive
        self._settings = settings
        self._watcher: asyncio.Task[None] | None = None
        self._asks = True
        self._is_late = False
        self._is_gone = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._loop = asyncio.get_running_loop()
        look_after_s = min(_WATCH_AFTER_S, self._settings.body_timeout_s)
        self._timer = self._loop.call_later(look_after_s, self._look, look_after_s)
        return self

    def has_asked(self) -> None:
        """The request is here: from now on a client that says more has gone."""
        self._asks = False

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._is_gone:
            self._task.uncancel()
            raise ClientGone from error
        if self._is_late:
            self._task.uncancel()
            raise body_is_late(self._settings) from error

    def _look(self, waited_s: float) -> None:
        left_s = self._settings.body_timeout_s - waited_s
        if not self._asks:
            self._watcher = asyncio.create_task(self._wait_until_gone())
        elif left_s > 0:
            next_s = min(left_s, _WATCH_AFTER_S)
            self._timer = self._loop.call_later(next_s, self._look, waited_s + next_s)
        else:
            self._is_late = True
            self._task.cancel()

    async def _wait_until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True
        self._task.cancel()
