"""The HTTP connections to one other region. `actors.regions.forwarding_service` decides what is
sent there.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import cast

import httpx

from cluster.clock import Deadline
from cluster.errors import DeadlineExceeded, Overloaded, TooLarge, Unavailable
from cluster.regions.endpoint import RegionEndpoint
from cluster.regions.event_stream import EventParser
from cluster.regions.wire import FORWARDED_BY, Call, parse_error

CONNECTIONS_MAX = 128
_IDLE_MAX = 32
_IDLE_S = 30.0
_POOL_TIMEOUT_S = 1.0
_UNANSWERED_MAX_MS = 2000
_SOCKET_OPTIONS: list[tuple[int, int, int]] = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
if sys.platform == "linux":
    # A cut network sends no errors. After so long without a word from the other machine's kernel,
    # on what was sent or on probes of an idle connection, the connection is broken.
    _SOCKET_OPTIONS += [
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNANSWERED_MAX_MS),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerTimeouts:
    """Times after which another region is taken for lost."""

    connect_s: float = 1.0
    """Several times the longest round trip on earth, and short enough to ask the next region."""
    silence_s: float = 5.0
    """A stream over which nothing comes for so long is broken: regions send signs of life."""


PEER_TIMEOUTS = PeerTimeouts()


class PeerConnection:
    """Sends calls to one region. Connections stay open between calls.

    Raises what the region answers, as an error of `cluster.errors`; Unavailable when it cannot be
    reached or breaks off, Overloaded when all connections are taken, TooLarge for what does not fit
    into a URL, DeadlineExceeded. Cancelling a call, or closing a stream, closes its connection,
    which ends the work over there.
    """

    def __init__(self, endpoint: RegionEndpoint, forwarded_by: str, timeouts: PeerTimeouts) -> None:
        self._endpoint = endpoint
        self._silence_s = timeouts.silence_s
        headers = {FORWARDED_BY: forwarded_by, "accept-encoding": "identity"}
        if endpoint.region_key is not None:
            headers["authorization"] = f"Bearer {endpoint.region_key}"
        transport = httpx.AsyncHTTPTransport(
            trust_env=False,
            socket_options=_SOCKET_OPTIONS,
            limits=httpx.Limits(
                max_connections=CONNECTIONS_MAX,
                max_keepalive_connections=_IDLE_MAX,
                keepalive_expiry=_IDLE_S,
            ),
        )
        self._client = httpx.AsyncClient(
            base_url=endpoint.url,
            headers=headers,
            trust_env=False,
            transport=transport,
            timeout=httpx.Timeout(None, connect=timeouts.connect_s, pool=_POOL_TIMEOUT_S),
        )

    async def whole(self, call: Call, deadline: Deadline) -> tuple[str, bytes]:
        """The media type and the body of the reply."""
        async with self._sent(call, deadline) as response, self._in_time(deadline):
            return response.headers.get("content-type", ""), await response.aread()

    async def events(
        self, call: Call, deadline: Deadline
    ) -> AsyncGenerator[tuple[str, bytes], None]:
        """The events of the reply as they come, as (name, data). It ends when the region ends it;
        whether that was the last event, the caller must know.
        """
        parser = EventParser()
        async with self._sent(call, deadline, silence_max_s=self._silence_s) as response:
            chunks = cast("AsyncGenerator[bytes, None]", response.aiter_raw())
            async with aclosing(chunks):
                while (chunk := await self._next(chunks, deadline)) is not None:
                    for event in parser.feed(chunk):
                        yield event

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _next(self, chunks: AsyncGenerator[bytes, None], deadline: Deadline) -> bytes | None:
        # Not around the whole stream: a timeout must not be held across a yield.
        async with self._in_time(deadline):
            return await anext(chunks, None)

    @asynccontextmanager
    async def _sent(
        self, call: Call, deadline: Deadline, *, silence_max_s: float | None = None
    ) -> AsyncIterator[httpx.Response]:
        """The good reply to the call, its body still to be read."""
        request = self._request(call)
        request.extensions["timeout"]["read"] = silence_max_s
        try:
            async with self._in_time(deadline):
                response = await self._send_again_if_stale(request)
            try:
                if response.status_code != 200:
                    async with self._in_time(deadline):
                        body = await response.aread()
                    raise parse_error(body, response.headers.get("retry-after"))
                yield response
            finally:
                await response.aclose()
        except httpx.PoolTimeout as error:
            raise Overloaded(
                f"all connections to region {self._endpoint.name!r} are taken; try again shortly"
            ) from error
        except httpx.TransportError as error:
            raise Unavailable(
                f"region {self._endpoint.name!r} does not answer ({type(error).__name__})"
            ) from error

    def _request(self, call: Call) -> httpx.Request:
        try:
            return self._client.build_request(
                "POST",
                call.path,
                content=call.content,
                params=dict(call.params) or None,
                headers=dict(call.headers),
            )
        except httpx.InvalidURL as error:
            raise TooLarge(
                "the filter is too long for a URL, in which it would be sent on with bare numbers; "
                "send the vectors as JSON"
            ) from error

    async def _send_again_if_stale(self, request: httpx.Request) -> httpx.Response:
        """Sends the request, once more on a new connection where the first one breaks: the other
        side may have closed a connection that idled.
        """
        try:
            return await self._client.send(request, stream=True)
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
            return await self._client.send(request, stream=True)

    @asynccontextmanager
    async def _in_time(self, deadline: Deadline) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                yield
        except TimeoutError:
            raise DeadlineExceeded(
                f"region {self._endpoint.name!r} did not answer in time"
            ) from None
