"""Replies leave as their clients read them, and what is unread is counted and bounded."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import orjson
import pytest
import uvicorn
from starlette.types import Message, Scope

from cluster.errors import Overloaded
from cluster.query.search import REPLY_BYTES_MAX, Hit, SearchRequest, SearchResult
from deployments.http.app import RegionApp
from deployments.http.errors import ClientGone
from deployments.http.settings import HttpSettings
from deployments.http.streams import reply_flow
from deployments.http.streams.reply_flow import (
    CONNECTION,
    WRITE_BYTES,
    PacedReply,
    ReplyRoom,
    UnreadLimits,
)
from deployments.serve.shortcut import Shortcut, close_shortcut, open_shortcut
from tests.support.waiting import until
from tests.support.web_server import web_server
from tests.support.worlds.fake_service import FakeService, app_of, in_process

MIB = 2**20
SEARCH = "/v1/search"
ASK = {"query": "tea"}


class LongService(FakeService):
    """Replies to searches for `long` with a text of so many bytes."""

    text_bytes = 20 * MIB

    async def search(self, request: SearchRequest) -> SearchResult:
        found = await super().search(request)
        if request.queries == ("long",):
            text = "".join(chr(97 + n % 26) for n in range(1024)) * (self.text_bytes // 1024)
            return replace(found, results=((Hit(id="a", score=1.0, text=text, metadata={}),),))
        return found


class Gateway:
    """A web server with the shortcut, as in a gateway, on a kernel with small buffers."""

    def __init__(self, app: RegionApp, server: uvicorn.Server, port: int) -> None:
        self.app = app
        self._server = server
        self._port = port
        self._clients: list[socket.socket] = []

    async def silent(self, path: str, body: dict[str, Any]) -> socket.socket:
        """A client that asks and does not read."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        client.setblocking(False)
        self._clients.append(client)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", self._port))
        content = orjson.dumps(body)
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n"
        await loop.sock_sendall(client, head.encode() + content)
        return client

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self._port}", timeout=30.0)

    def unread_bytes(self) -> int:
        """What the web server holds that has not been taken by the kernel."""
        connections: set[Any] = self._server.server_state.connections
        return sum(c.transport.get_write_buffer_size() for c in connections)

    @property
    def held_bytes(self) -> int:
        return self.app.edge.unread_bytes

    def close(self) -> None:
        for client in self._clients:
            client.close()


@contextlib.asynccontextmanager
async def gateway(service: FakeService, **settings: Any) -> AsyncIterator[Gateway]:
    app = app_of(service, HttpSettings(**settings))
    open_shortcut(SEARCH, app.entrance)
    serving = web_server(
        Shortcut(app), send_buffer_bytes=64 * 1024, log_level="critical", http="httptools"
    )
    async with serving as (server, port):
        await until(lambda: server.started)
        made = Gateway(app, server, port)
        try:
            yield made
        finally:
            made.close()
            close_shortcut()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long reply has no more time than a short one."""
    monkeypatch.setattr(reply_flow, "BYTES_PER_S_MIN", 2**40)


async def test_unread_replies_are_under_way_and_little_of_them_is_copied() -> None:
    async with gateway(LongService(), replies_bytes_max=200 * MIB) as served:
        for _ in range(8):
            await served.silent(SEARCH, {"query": "long"})
        await until(lambda: served.held_bytes >= 8 * 20 * MIB)
        async with served.client() as client:
            # Others are answered, and each of the eight holds its place.
            for _ in range(20):
                assert (await client.post(SEARCH, json=ASK)).status_code == 200
        assert served.app.edge.in_flight == 8
        assert served.unread_bytes() <= 8 * 2 * WRITE_BYTES
        served.close()
        await until(lambda: served.app.edge.in_flight == 0)
        assert served.held_bytes == 0


@pytest.mark.usefixtures("impatient")
async def test_who_does_not_read_is_given_up_and_the_connection_closed() -> None:
    service = LongService()
    async with gateway(service, unread_timeout_s=0.2) as served:
        clients = [await served.silent(SEARCH, {"query": "long"}) for _ in range(3)]
        await until(lambda: len(service.searches) == 3)
        await until(lambda: served.app.edge.in_flight == 0)
        assert served.held_bytes == 0
        loop = asyncio.get_running_loop()
        for client in clients:
            received = 0
            with contextlib.suppress(ConnectionResetError):
                while part := await loop.sock_recv(client, MIB):
                    received += len(part)
            assert received < 20 * MIB


async def test_long_replies_have_a_bound_and_short_ones_pass() -> None:
    async with gateway(LongService(), replies_bytes_max=50 * MIB) as served:
        for _ in range(2):
            await served.silent(SEARCH, {"query": "long"})
        await until(lambda: served.held_bytes >= 40 * MIB)
        async with served.client() as client:
            refused = await client.post(SEARCH, json={"query": "long"})
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "overloaded"
            assert "retry-after" in refused.headers
            assert (await client.post(SEARCH, json=ASK)).status_code == 200
            served.close()
            await until(lambda: served.held_bytes == 0)
            assert (await client.post(SEARCH, json={"query": "long"})).status_code == 200


async def test_a_slow_reader_gets_the_whole_reply() -> None:
    async with gateway(LongService()) as served, served.client() as client:
        for _ in range(2):
            async with client.stream("POST", SEARCH, json={"query": "long"}) as reply:
                parts = []
                async for part in reply.aiter_raw(WRITE_BYTES):
                    parts.append(part)
                    await asyncio.sleep(0)
            text: str = orjson.loads(b"".join(parts))["hits"][0]["text"]
            assert len(text) == 20 * MIB
            assert text == text[:1024] * (len(text) // 1024)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/answer", {"question": "tea?", "stream": True}),
        (
            "/v1/chat/completions",
            {
                "model": "raygion",
                "messages": [{"role": "user", "content": "tea?"}],
                "stream": True,
            },
        ),
    ],
)
async def test_a_stream_that_nobody_reads_stops_the_model(path: str, body: dict[str, Any]) -> None:
    service = FakeService()
    service.tokens = ("word " * 2000,) * 5000
    async with gateway(service, unread_timeout_s=0.2) as served:
        await served.silent(path, body)
        await service.stopped.wait()
        await until(lambda: served.app.edge.in_flight == 0)
        assert service.num_tokens < 2500
        assert served.held_bytes == 0


async def test_a_reply_longer_than_any_may_be_is_refused() -> None:
    service = LongService()
    service.text_bytes = REPLY_BYTES_MAX
    async with in_process(service) as client:
        refused = await client.post(SEARCH, json={"query": "long"})
        assert refused.status_code == 400
        error = refused.json()["error"]
        assert (error["code"], error["field"]) == ("invalid_argument", "top_k")
        assert "include" in error["message"]
        assert (await client.post(SEARCH, json=ASK)).status_code == 200


# One reply at a time, without a server.


class Server:
    """Keeps what is sent. Closed, its gate holds up all that follows."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.is_full = False
        self.aborted = False

    async def send(self, message: Message) -> None:
        await self.gate.wait()
        self.sent.append(message)

    def abort(self) -> None:
        self.aborted = True

    def reply(self, room: ReplyRoom, timeout_s: float = 30.0) -> PacedReply:
        scope: Scope = {"type": "http", "extensions": {CONNECTION: self}}
        return PacedReply(self.send, scope, UnreadLimits(room=room, timeout_s=timeout_s))

    @property
    def body(self) -> bytes:
        return b"".join(m["body"] for m in self.sent[1:])


START: Message = {"type": "http.response.start", "status": 200, "headers": []}


def body_of(num_bytes: int, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": b"x" * num_bytes, "more_body": more}


@pytest.mark.parametrize("num_bytes", [0, 1, WRITE_BYTES, WRITE_BYTES + 1, 3 * WRITE_BYTES + 7])
@pytest.mark.parametrize("more", [False, True])
async def test_every_byte_is_sent_once_and_the_end_last(num_bytes: int, more: bool) -> None:
    server, room = Server(), ReplyRoom(10 * MIB)
    reply = server.reply(room)
    await reply(START)
    assert server.sent == []
    await reply(body_of(num_bytes, more=more))
    assert server.sent[0] is START
    assert server.body == b"x" * num_bytes
    assert [m.get("more_body", False) for m in server.sent[1:-1]] == [True] * len(server.sent[1:-1])
    assert server.sent[-1].get("more_body", False) == more
    assert max(len(m["body"]) for m in server.sent[1:]) <= WRITE_BYTES
    assert room.taken_bytes == (num_bytes if num_bytes > WRITE_BYTES else 0)
    reply.close()
    reply.close()
    assert room.taken_bytes == 0


async def test_what_has_no_room_is_refused_before_anything_is_sent() -> None:
    server, room = Server(), ReplyRoom(MIB)
    first, second, stream = server.reply(room), server.reply(room), server.reply(room)
    await first(START)
    # However long the first one is.
    await first(body_of(2 * MIB))
    sent = len(server.sent)
    await second(START)
    with pytest.raises(Overloaded):
        await second(body_of(WRITE_BYTES + 1))
    assert len(server.sent) == sent
    # What has begun is not broken off for want of room.
    await stream(START)
    await stream(body_of(1, more=True))
    await stream(body_of(2 * WRITE_BYTES))
    for reply in (first, second, stream):
        reply.close()
    assert room.taken_bytes == 0


@pytest.mark.parametrize("num_bytes", [1, 2 * WRITE_BYTES])
@pytest.mark.usefixtures("impatient")
async def test_a_client_that_does_not_read_in_time_is_gone(num_bytes: int) -> None:
    server = Server()
    server.is_full = True
    server.gate.clear()
    reply = server.reply(ReplyRoom(MIB), timeout_s=0.01)
    await reply(START)
    with pytest.raises(ClientGone):
        await reply(body_of(num_bytes))
    assert server.aborted
    assert server.sent == []
