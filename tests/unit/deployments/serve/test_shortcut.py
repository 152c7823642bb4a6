"""Searches go past Serve where that is possible, and everything else goes its way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from ray.serve._private.http_util import RequestIdMiddleware  # noqa: TID251
from ray.serve._private.utils import call_function_from_import_path  # noqa: TID251
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.serve import shortcut as serve_shortcut
from deployments.serve.shortcut import CALLBACK, Shortcut, close_shortcut, open_shortcut
from tests.support.web_server import web_server
from tests.support.worlds.fake_service import FakeService, app_of

PATH = "/v1/search"


def answering(text: str) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(text)(scope, receive, send)

    return app


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    close_shortcut()


@contextlib.asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        web_server(app, log_level="warning", http="httptools") as (_, port),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        yield client


def test_serve_can_call_what_the_clusters_environment_names() -> None:
    (middleware,) = call_function_from_import_path(CALLBACK)
    assert middleware.cls is Shortcut


async def test_only_the_open_path_is_answered_past_serve() -> None:
    async with served(Shortcut(answering("serve"))) as client:
        assert (await client.post(PATH)).text == "serve"
        open_shortcut(PATH, answering("gateway"))
        assert (await client.post(PATH)).text == "gateway"
        assert (await client.post("/v1/answer")).text == "serve"
        # What is refused is refused by the whole application.
        for method in ("GET", "OPTIONS", "DELETE"):
            assert (await client.request(method, PATH)).text == "serve"
        close_shortcut()
        assert (await client.post(PATH)).text == "serve"


@pytest.mark.parametrize("sent", [{}, {"x-request-id": "0af76519-16cd-43dd-8448-eb211c80319c"}])
async def test_a_reply_has_one_request_id(sent: dict[str, str]) -> None:
    gateway = app_of(FakeService())
    async with served(Shortcut(RequestIdMiddleware(gateway))) as client:
        reply = await client.get("/v1/models", headers=sent)
    assert reply.headers.get_list("x-request-id") == [reply.headers["x-trace-id"]]
    async with served(Shortcut(RequestIdMiddleware(answering("serve's own refusal")))) as client:
        refused = await client.get("/v1/models", headers={"x-request-id": "an-id"})
    assert refused.headers.get_list("x-request-id") == ["an-id"]


async def test_an_application_on_another_event_loop_is_left_to_serve() -> None:
    async def open_it() -> None:
        open_shortcut(PATH, answering("gateway"))

    await asyncio.to_thread(asyncio.run, open_it())
    async with served(Shortcut(answering("serve"))) as client:
        assert (await client.post(PATH)).text == "serve"


async def test_a_reply_that_comes_in_pieces_arrives_whole_and_in_order() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"9")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in (b"one", b"two"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"six"})

    open_shortcut(PATH, app)
    async with served(Shortcut(answering("serve"))) as client:
        for _ in range(3):
            assert (await client.post(PATH)).content == b"onetwosix"
        reply = await client.post(PATH, headers={"connection": "close"})
        assert reply.content == b"onetwosix"


async def test_a_reply_that_breaks_off_breaks_the_connection() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"9")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        raise RuntimeError("broken")

    open_shortcut(PATH, app)
    async with served(Shortcut(answering("serve"))) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(PATH)


async def test_uvicorn_writes_replies_together(monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[str] = []

    class Written(asyncio.Transport):
        def __init__(self, transport: asyncio.Transport) -> None:
            self._transport = transport

        def write(self, data: bytes | bytearray | memoryview) -> None:
            writes.append("to the kernel")
            self._transport.write(data)

    class Counted(serve_shortcut.Together):
        def __init__(self, transport: asyncio.Transport) -> None:
            super().__init__(Written(transport))

        def write(self, data: bytes) -> None:
            writes.append("by uvicorn")
            super().write(data)

    monkeypatch.setattr(serve_shortcut, "Together", Counted)
    open_shortcut(PATH, answering("gateway"))
    async with served(Shortcut(answering("serve"))) as client:
        assert (await client.post(PATH)).text == "gateway"
    assert writes == ["by uvicorn", "by uvicorn", "to the kernel"]


async def test_head_and_body_are_one_write() -> None:
    written: list[bytes] = []

    class Transport(asyncio.Transport):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            written.append(bytes(data))

    together = serve_shortcut.Together(Transport())
    together.write(b"head ")
    together.write(b"body")
    assert written == []
    await asyncio.sleep(0)
    assert written == [b"head body"]
    together.write(b"next")
    await asyncio.sleep(0)
    assert written == [b"head body", b"next"]
