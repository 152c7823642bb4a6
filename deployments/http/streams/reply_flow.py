"""Replies leave at the pace at which their clients read them.

A web server takes whatever an application sends and keeps what the client does not read. So long
replies are sent in parts, each of which waits for those before it to leave. Until the last one has
left, the request counts as under way, and the bytes of its reply count against a bound. A client
that does not read is given up after a time, and its connection is closed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from starlette.types import Message, Scope, Send

from cluster.errors import Overloaded
from deployments.http.errors import ClientGone

WRITE_BYTES = 64 * 1024
"""Bytes of each connection's replies that may be unread when they count as sent, besides those in
the buffers of the kernel.
"""
BYTES_PER_S_MIN = 128 * 1024
"""A client that reads slower than this does not get to the end of a long reply."""
CONNECTION = "raygion.connection"
"""The ASGI extension in which `Connection` is found."""


class Connection(Protocol):
    """The facts about a client's connection that ASGI does not give."""

    @property
    def is_full(self) -> bool:
        """True when sending waits for the client to read."""
        ...

    def abort(self) -> None:
        """Closes it at once; what the client has not read is dropped."""
        ...


class ReplyRoom:
    """Counts the bytes of the long replies that are being sent."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.taken_bytes = 0

    def check(self, num_bytes: int) -> None:
        """Raises Overloaded where a reply of so many bytes has no room beside the others. One
        always has, however long it is, while there are no others.
        """
        if self.taken_bytes and self.taken_bytes + num_bytes > self._bytes_max:
            raise Overloaded("too many long replies wait to be read; try again shortly")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadLimits:
    room: ReplyRoom
    timeout_s: float
    """Time for a part of a stream; a whole reply gets more, by its length."""


class PacedReply:
    """The ASGI `send` of one request.

    Raises ClientGone when the client does not read in time, and Overloaded, before anything is
    sent, for a long reply without room. The owner calls `close` in the end.
    """

    def __init__(self, send: Send, scope: Scope, limits: UnreadLimits) -> None:
        self._send = send
        self._limits = limits
        self._connection: Connection | None = scope.get("extensions", {}).get(CONNECTION)
        self._head: Message | None = None
        """Held back until the body is known to have room."""
        self._taken_bytes = 0

    def close(self) -> None:
        """The reply has left, or never will."""
        self._limits.room.taken_bytes -= self._taken_bytes
        self._taken_bytes = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._head = message
            return
        body: bytes = message.get("body", b"")
        is_long = len(body) > WRITE_BYTES
        if is_long:
            self._take(len(body))
        if is_long or self._connection is None or self._connection.is_full:
            await self._send_in_time(message, body)
        else:
            # Nothing in here waits, so that no timer is needed.
            await self._send_head()
            await self._send(message)

    def _take(self, num_bytes: int) -> None:
        room = self._limits.room
        if self._head is not None:
            room.check(num_bytes)
        room.taken_bytes += num_bytes
        self._taken_bytes += num_bytes

    async def _send_in_time(self, message: Message, body: bytes) -> None:
        timeout_s = self._limits.timeout_s + len(body) / BYTES_PER_S_MIN
        try:
            async with asyncio.timeout(timeout_s):
                await self._send_head()
                if len(body) <= WRITE_BYTES:
                    await self._send(message)
                else:
                    await self._send_in_pieces(message, body)
        except TimeoutError:
            if self._connection is not None:
                self._connection.abort()
            raise ClientGone from None

    async def _send_head(self) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            await self._send(head)

    async def _send_in_pieces(self, message: Message, body: bytes) -> None:
        view = memoryview(body)
        for start in range(0, len(body), WRITE_BYTES):
            piece = view[start : start + WRITE_BYTES]
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        # A server waits before it sends, not after: this waits for the parts to leave.
        more = message.get("more_body", False)
        await self._send({"type": "http.response.body", "body": b"", "more_body": more})
