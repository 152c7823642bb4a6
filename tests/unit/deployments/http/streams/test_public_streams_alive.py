"""A public stream that waits for the model says so, in a way that clients pass over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest
from openai import APIError, AsyncOpenAI

from cluster.errors import Unavailable
from cluster.query.answers import AnswerEvent, AnswerRequest
from cluster.regions.event_stream import EventParser
from deployments.http.streams.alive_stream import SIGN_OF_LIFE, SilenceLimits
from tests.support.worlds.fake_service import FakeService, app_of, on_loopback

ANSWER = ("/v1/answer", {"question": "tea?", "stream": True})
CHAT_BODY: dict[str, Any] = {
    "model": "raygion",
    "messages": [{"role": "user", "content": "tea?"}],
    "stream": True,
}
CHAT = ("/v1/chat/completions", CHAT_BODY)
both_routes = pytest.mark.parametrize(("path", "body"), [ANSWER, CHAT])


class Queue(FakeService):
    """Lets a question wait before its first event, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first = asyncio.Event()
        self.first.set()

    async def answer_events(self, request: AnswerRequest) -> AsyncIterator[AnswerEvent]:  # type: ignore[override]
        await self.first.wait()
        async for event in super().answer_events(request):
            yield event


@pytest.fixture
def service() -> Queue:
    return Queue()


@pytest.fixture
async def url(service: Queue) -> AsyncIterator[str]:
    async with on_loopback(app_of(service, silence=SilenceLimits(to_callers_s=0.01))) as base:
        yield base


async def read(url: str, path: str, body: dict[str, Any], waits: asyncio.Event) -> bytes:
    """The whole stream; what it waits for comes after the second sign of life."""
    received = b""
    async with (
        httpx.AsyncClient(base_url=url) as client,
        client.stream("POST", path, json=body) as reply,
    ):
        assert reply.status_code == 200
        async for part in reply.aiter_raw():
            received += part
            if received.count(SIGN_OF_LIFE) >= 2:
                waits.set()
    return received


@both_routes
@pytest.mark.parametrize("at_first", [False, True])
async def test_a_stream_that_waits_carries_comments(
    service: Queue, url: str, path: str, body: dict[str, Any], at_first: bool
) -> None:
    waits = service.first if at_first else service.gate
    waits.clear()
    received = await read(url, path, body, waits)
    assert received.startswith(SIGN_OF_LIFE) == at_first
    events = EventParser().feed(received)
    ends = {"/v1/answer": "done", "/v1/chat/completions": "message"}
    assert events[-1][0] == ends[path]
    service.first.set()
    service.gate.set()


async def test_the_openai_client_passes_over_them(service: Queue, url: str) -> None:
    service.first.clear()
    service.gate.clear()
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        # It returns with the head of the reply, which comes with the first sign of life.
        stream = await client.chat.completions.create(**CHAT_BODY)
        service.first.set()
        chunks = [await anext(stream), await anext(stream)]
        asyncio.get_running_loop().call_later(0.05, service.gate.set)
        chunks += [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "Reykjavik [1]"
    assert chunks[-1].choices[0].finish_reason == "stop"


@both_routes
async def test_an_error_after_a_sign_of_life_is_an_event(
    service: Queue, url: str, path: str, body: dict[str, Any]
) -> None:
    service.first.clear()
    service.answer_error = Unavailable("no model")
    events = EventParser().feed(await read(url, path, body, service.first))
    assert orjson.loads(events[-1][1])["error"]["code"] == "unavailable"


async def test_the_openai_client_raises_such_an_error(service: Queue, url: str) -> None:
    service.first.clear()
    service.answer_error = Unavailable("no model")
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(**CHAT_BODY)
        service.first.set()
        with pytest.raises(APIError, match="no model"):
            _ = [chunk async for chunk in stream]


@both_routes
async def test_an_error_before_the_first_byte_keeps_its_status(
    service: Queue, url: str, path: str, body: dict[str, Any]
) -> None:
    service.answer_error = Unavailable("no model")
    async with httpx.AsyncClient(base_url=url) as client:
        assert (await client.post(path, json=body)).status_code == 503
