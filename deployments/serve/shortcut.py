"""Searches past Ray Serve: from its web server straight to the gateway.

    uvicorn -> Shortcut -+-> HttpEdge -> SearchRoute                POST /v1/search
                         `-> Serve's replica -> RegionApp           everything else

What Serve does around each request of a replica (ids, contexts, matching of routes, metrics of its
own) costs more than the search, which needs none of it: the edge bounds, counts and times requests
itself. Serve puts the middlewares of `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` around everything
else that a replica does. Where the variable is not set, or the application runs on another event
loop than the web server, all requests go Serve's way.

Serve does not know of the requests that go past it. So scaling goes by what the gateways count
(`deployments.serve.autoscaling`). A replica that is to stop waits for its web server, which waits
for all of them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle  # noqa: TID251

from deployments.http.edge import REQUEST_HEADER
from deployments.http.streams.reply_flow import CONNECTION, WRITE_BYTES

CALLBACK = f"{__name__}.middlewares"
"""Value for `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`."""


@dataclass(frozen=True, slots=True)
class _Way:
    path: str
    app: ASGIApp
    loop: asyncio.AbstractEventLoop


_open: _Way | None = None
"""Way of this process, which runs one gateway at most."""


def open_shortcut(path: str, app: ASGIApp) -> None:
    """From now on `app` answers POST to this path for a web server on the running event loop."""
    global _open
    _open = _Way(path, app, asyncio.get_running_loop())


def close_shortcut() -> None:
    global _open
    _open = None


def middlewares() -> list[Middleware]:
    """Serve calls it in each process that takes HTTP."""
    return [Middleware(Shortcut)]


class Shortcut:
    """The web server's application in front of Serve's."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cycle = getattr(send, "__self__", None)
        if isinstance(cycle, RequestResponseCycle):
            scope.setdefault("extensions", {})[CONNECTION] = _UvicornConnection(cycle)
        way = _open
        if (
            way is not None
            and scope["type"] == "http"
            and scope["path"] == way.path
            and scope["method"] == "POST"
            and asyncio.get_running_loop() is way.loop
        ):
            if isinstance(cycle, RequestResponseCycle):
                # A reply's head and body, each by itself, are a system call here, and wake the
                # proxy and the client up once more.
                cycle.transport = Together(cycle.transport)  # type: ignore[assignment]
            await way.app(scope, receive, send)
        else:
            await self._app(scope, receive, _with_one_id(send))


def _with_one_id(send: Send) -> Send:
    """`send` without the second `x-request-id`: Serve adds its own behind the gateway's, and a
    client would read both as one.
    """

    async def send_with_one_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message["headers"]
            ids = [number for number, (name, _) in enumerate(headers) if name == REQUEST_HEADER]
            message["headers"] = [h for n, h in enumerate(headers) if n not in ids[1:]]
        await send(message)

    return send_with_one_id


class _UvicornConnection:
    """A `deployments.http.streams.reply_flow.Connection`.

    ASGI has no word for a client that does not read, nor for breaking off a reply: only uvicorn's
    own object behind `send` knows the connection.
    """

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    @property
    def is_full(self) -> bool:
        return self._cycle.flow.write_paused

    def abort(self) -> None:
        self._cycle.transport.abort()


class Together:
    """A transport that sends what is written in one turn of the event loop as one, unless that is
    much.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._held:
            asyncio.get_running_loop().call_soon(self._flush)
        self._held.append(data)
        if len(data) >= WRITE_BYTES:
            # The next part must find out whether this one leaves.
            self._flush()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        if self._held:
            data = b"".join(self._held)
            self._held.clear()
            self._transport.write(data)
