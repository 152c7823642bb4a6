"""Reads the body of a request, within its bounds."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope

from cluster.errors import DeadlineExceeded, TooLarge, UnsupportedMedia
from deployments.http.errors import ClientGone
from deployments.http.settings import HttpSettings


def header_values(scope: Scope, name: bytes) -> list[bytes]:
    """All headers of that name, which is in lower case."""
    return [value for key, value in scope["headers"] if key == name]


def header_value(scope: Scope, name: bytes) -> bytes:
    """The first header of that name, empty when there is none."""
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return b""


def media_types(scope: Scope, name: bytes) -> list[str]:
    """The media types of such a header, without their parameters."""
    listed = header_value(scope, name).decode("latin-1").split(",")
    return [media_type.partition(";")[0].strip().lower() for media_type in listed]


async def read_body(scope: Scope, receive: Receive, settings: HttpSettings) -> bytes:
    """The whole body. Raises TooLarge as soon as it is known to be too long, however it is sent,
    UnsupportedMedia for a compressed one, DeadlineExceeded when it does not arrive in time, and
    ClientGone when it never will.
    """
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            return await receive_body(scope, receive, settings.body_bytes_max)
    except TimeoutError:
        raise body_is_late(settings) from None


async def receive_body(scope: Scope, receive: Receive, bytes_max: int) -> bytes:
    """Same as `read_body`, for callers that bound the time themselves."""
    encodings = header_values(scope, b"content-encoding")
    if any(encoding.strip().lower() not in (b"", b"identity") for encoding in encodings):
        # Unpacked it might be a thousand times as long.
        raise UnsupportedMedia("send the body as it is, without a content-encoding")
    declared = header_value(scope, b"content-length")
    if declared.isdigit() and int(declared) > bytes_max:
        raise _too_large(bytes_max)
    pieces: list[bytes] = []
    num_bytes = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece: bytes = message.get("body", b"")
        num_bytes += len(piece)
        if num_bytes > bytes_max:
            raise _too_large(bytes_max)
        pieces.append(piece)
        more = message.get("more_body", False)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def body_is_late(settings: HttpSettings) -> DeadlineExceeded:
    return DeadlineExceeded(f"the request body did not arrive within {settings.body_timeout_s:g} s")


def _too_large(bytes_max: int) -> TooLarge:
    return TooLarge(f"the request body is longer than {bytes_max} bytes; send a smaller batch")
