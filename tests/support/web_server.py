"""A real web server on loopback, in the event loop of the test."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp


class WebServer(uvicorn.Server):
    """Leaves the signals of the process to pytest."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def web_server(
    app: ASGIApp, *, send_buffer_bytes: int | None = None, **config: Any
) -> AsyncIterator[tuple[WebServer, int]]:
    """The server and its port. `send_buffer_bytes` is what the kernel takes of a reply that its
    client does not read; `config` goes to uvicorn.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        if send_buffer_bytes is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
        server = WebServer(uvicorn.Config(app, ws="none", lifespan="off", **config))
        running = asyncio.create_task(server.serve([listening]))
        try:
            yield server, listening.getsockname()[1]
        finally:
            server.should_exit = True
            await running
