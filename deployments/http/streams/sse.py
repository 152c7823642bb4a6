"""Answers as server-sent events, and what happens when either side breaks off.

A client that goes away ends the generation: the event iterator is closed. An error before the
first event is a plain HTTP error; after it, a typed `error` event. A stream is never cut silently.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from cluster.query.answers import AnswerEvent, AnswerResult, Retrieved, Token, broken_off
from deployments.http.errors import ClientGone, error_body, log_failure
from deployments.http.schemas.replies import render_answer, render_retrieved, render_token

T = TypeVar("T")


class StreamFormat(Protocol):
    """The format of events on the wire."""

    def event(self, event: AnswerEvent) -> bytes: ...

    def error(self, body: bytes) -> bytes:
        """`body` is the JSON of the error."""
        ...


class NamedEvents:
    """The events of `/v1/answer`: `retrieved`, `token`, `done`, `error`."""

    def event(self, event: AnswerEvent) -> bytes:
        match event:
            case Retrieved():
                return named_event(b"retrieved", render_retrieved(event))
            case Token():
                return named_event(b"token", render_token(event.text))
            case AnswerResult():
                return named_event(b"done", render_answer(event))

    def error(self, body: bytes) -> bytes:
        return named_event(b"error", body)


_ESCAPED = {char.encode(): b"\\u%04x" % ord(char) for char in "\u0085\u2028\u2029"}
"""Line breaks that JSON may hold as they are."""


def named_event(name: bytes, data: bytes) -> bytes:
    """One event. `data` is JSON without `\\n` and `\\r`."""
    return b"event: %b\n" % name + data_event(data)


def data_event(data: bytes) -> bytes:
    # Streams of events know two line breaks, but many who read them as text break lines at all that
    # Unicode has. In JSON these stand inside of strings only.
    for char, escape in _ESCAPED.items():
        data = data.replace(char, escape)
    return b"data: %b\n\n" % data


async def event_chunks(
    events: AsyncGenerator[AnswerEvent, None],
    form: StreamFormat,
    trace_id: str,
    *,
    ended: Callable[[str], None],
) -> AsyncGenerator[bytes, None]:
    """The bytes of a stream, one piece an event. Raises only before the first piece. Closing it
    closes `events`. At the end it calls `ended` with `done`, `error` or `client_gone`.
    """
    started = finished = False
    end = "client_gone"
    try:
        async with aclosing(events):
            # To its very end, also after the last event: its maker may have things to settle there.
            async for event in events:
                yield form.event(event)
                started = True
                if isinstance(event, AnswerResult):
                    finished, end = True, "done"
        if not finished:
            raise broken_off()
    except Exception as error:
        if not started:
            end = "error"
            raise
        log_failure(error)
        if not finished:
            end = "error"
            yield form.error(error_body(error, trace_id))
    finally:
        ended(end)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Awaits `work` while the client is there. When it goes away, `work` is cancelled, has ended,
    and ClientGone is raised. The request's body must have been read before.
    """
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Sends chunks as they come. One task drives the chunks from the first to the close, so that
    whoever makes them may hold timeouts across them. The status line waits for the first chunk.
    """

    def __init__(self, chunks: AsyncGenerator[bytes, None]) -> None:
        super().__init__(
            chunks,
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await unless_gone(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        started = False
        async with aclosing(self._chunks):
            async for chunk in self._chunks:
                if not started:
                    await _send(
                        send,
                        {
                            "type": "http.response.start",
                            "status": self.status_code,
                            "headers": self.raw_headers,
                        },
                    )
                    started = True
                await _send(send, {"type": "http.response.body", "body": chunk, "more_body": True})
        await _send(send, {"type": "http.response.body", "body": b"", "more_body": False})


async def _send(send: Callable[[Any], Awaitable[None]], message: dict[str, object]) -> None:
    try:
        await send(message)
    except OSError:
        # Servers of ASGI 2.4 say so that the client is gone.
        raise ClientGone from None
