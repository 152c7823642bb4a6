"""Signs of life between the pieces of a stream, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from cluster.errors import Overloaded, Unavailable
from deployments.http.streams.alive_stream import SIGN_OF_LIFE, alive
from deployments.http.streams.sse import NamedEvents


async def collect(chunks: AsyncGenerator[bytes, None]) -> list[bytes]:
    async with asyncio.timeout(10.0):
        return [chunk async for chunk in alive(chunks, NamedEvents(), "t", every_s=0.01)]


async def test_pieces_come_as_they_are_with_signs_of_life_between() -> None:
    go_on = asyncio.Event()

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"one"
        await go_on.wait()
        yield b"two"

    got = []
    async for chunk in alive(chunks(), NamedEvents(), "t", every_s=0.01):
        got.append(chunk)
        if got.count(SIGN_OF_LIFE) == 2:
            go_on.set()
    assert (got[0], got[-1]) == (b"one", b"two")


async def test_an_error_before_the_first_byte_is_raised() -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        raise Overloaded("full")
        yield b""

    with pytest.raises(Overloaded):
        await collect(chunks())


@pytest.mark.parametrize("first", [True, False])
async def test_a_maker_that_is_cancelled_by_itself_ends_the_stream(first: bool) -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        if not first:
            yield b"one"
        raise asyncio.CancelledError

    if first:
        with pytest.raises(Unavailable, match="broke off"):
            await collect(chunks())
        return
    one, *_, end = await collect(chunks())
    assert one == b"one"
    assert end.startswith(b"event: error")
    assert b'"unavailable"' in end
