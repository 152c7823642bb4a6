"""Streamed answers, and what happens when either side breaks off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import orjson
import pytest

from cluster import errors
from cluster.logs.formats import JsonFormatter
from deployments.http.schemas.replies import AnswerReply, ErrorReply
from tests.support.http_replies import sample
from tests.support.worlds.fake_service import (
    CAME_ABOUT,
    CITATION,
    MADE,
    MODEL,
    FakeService,
    app_of,
    in_process,
    on_loopback,
)

QUESTION = {"question": "What is the capital of Iceland?"}
STREAMED = {**QUESTION, "stream": True}
CHAT_ROUTE = "/v1/chat/completions"
CHAT = {"model": "raygion", "messages": [{"role": "user", "content": "Capital of Iceland?"}]}


def events_of(text: str) -> list[tuple[str, Any]]:
    """Reads server-sent events the way a client does."""
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), orjson.loads(data.removeprefix("data: "))))
    return found


async def metrics_when_idle(url: str) -> str:
    async with asyncio.timeout(5.0), httpx.AsyncClient(base_url=url) as client:
        while True:
            metrics = (await client.get("/metrics")).text
            if sample(metrics, "raygion_http_requests_in_flight") == 0:
                return metrics


async def test_a_stream_tells_what_was_found_then_the_text_then_the_whole() -> None:
    async with in_process(FakeService()) as client:
        reply = await client.post("/v1/answer", json=STREAMED)
        whole = await client.post("/v1/answer", json=QUESTION)
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["cache-control"] == "no-store"
    events = events_of(reply.text)
    assert [name for name, _ in events] == ["retrieved", "token", "token", "token", "done"]
    assert events[0][1] == {
        "citations": [{"id": CITATION.id, "text": CITATION.text, "score": CITATION.score}],
        "release": 7,
        "region": "north",
        "coverage": 1.0,
        "model": MODEL,
        "trace_id": reply.headers["x-trace-id"],
        **MADE,
        **CAME_ABOUT,
    }
    assert "".join(data["text"] for _, data in events[1:-1]) == events[-1][1]["answer"]
    AnswerReply.model_validate(events[-1][1], strict=True)
    assert {**events[-1][1], "trace_id": ""} == {**whole.json(), "trace_id": ""}


@pytest.mark.parametrize(("route", "asked"), [("/v1/answer", QUESTION), (CHAT_ROUTE, CHAT)])
async def test_no_line_break_of_a_text_breaks_a_line_of_the_stream(
    route: str, asked: dict[str, Any]
) -> None:
    text = "a\u2028b\u2029c\u0085d\ne\rf\x0bg\x0ch\x1ci\u00c2\u0080\\u2028"
    service = FakeService()
    service.tokens = (text,)
    read = []
    async with (
        in_process(service) as client,
        client.stream("POST", route, json={**asked, "stream": True}) as reply,
    ):
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                read.append(orjson.loads(line.removeprefix("data: ")))
            else:
                assert not line or line.startswith(("event: ", "data: [DONE]"))
    if route == CHAT_ROUTE:
        assert [each["choices"][0]["delta"].get("content") for each in read] == ["", text, None]
    else:
        assert (read[1]["text"], read[2]["answer"]) == (text, text)


async def test_an_error_before_the_first_event_is_a_plain_error() -> None:
    service = FakeService()
    service.answer_error = errors.Overloaded("the model's queue is full", 4.0)
    async with in_process(service) as client:
        for route, body in (("/v1/answer", STREAMED), ("/v1/chat/completions", CHAT)):
            reply = await client.post(route, json={**body, "stream": True})
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "4")
            assert reply.json()["error"]["code"] == "overloaded"


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (errors.Unavailable("the replica is gone"), "unavailable", True),
        (errors.DeadlineExceeded("late"), "deadline_exceeded", True),
        (ValueError("/secret/path"), "internal", False),
        (None, "unavailable", True),
    ],
)
async def test_a_stream_that_breaks_says_so(
    error: Exception | None, code: str, retryable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    service = FakeService()
    service.token_error = error
    service.ends_early = True
    async with in_process(service) as client:
        reply = await client.post("/v1/answer", json=STREAMED)
        metrics = (await client.get("/metrics")).text
    *before, (name, data) = events_of(reply.text)
    assert (before[0][0], name) == ("retrieved", "error")
    assert "done" not in [name for name, _ in before]
    told = ErrorReply.model_validate(data).error
    assert (told.code, told.retryable) == (code, retryable)
    assert told.trace_id == reply.headers["x-trace-id"]
    assert "secret" not in reply.text
    assert sample(metrics, "raygion_streams_total", route="/v1/answer", end="error") == 1
    logged = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    failures = [entry for entry in logged if entry.get("event") == "request.failed"]
    if isinstance(error, ValueError):
        (failure,) = failures
        assert failure["trace_id"] == told.trace_id
        assert failure["exception"].endswith("/secret/path")
    else:
        assert not failures


async def test_the_service_may_settle_things_after_its_last_event() -> None:
    service = FakeService()
    async with in_process(service) as client:
        await client.post("/v1/answer", json=STREAMED)
    assert service.completed == 1


async def test_an_own_timeout_of_the_service_works_across_its_events() -> None:
    """Only if one task drives the events from the first to the last."""

    class Slow(FakeService):
        async def answer_events(self, request: Any) -> AsyncGenerator[Any, None]:
            try:
                async with asyncio.timeout(0.05):
                    async for event in super().answer_events(request):
                        yield event
            except TimeoutError:
                raise errors.DeadlineExceeded("time ran out") from None

    service = Slow()
    service.gate.clear()
    async with in_process(service) as client:
        reply = await client.post("/v1/answer", json=STREAMED)
    events = events_of(reply.text)
    assert [name for name, _ in events] == ["retrieved", "token", "error"]
    assert events[-1][1]["error"]["code"] == "deadline_exceeded"


@pytest.mark.parametrize(
    ("route", "body"),
    [("/v1/answer", QUESTION), ("/v1/chat/completions", CHAT)],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_when_the_client_goes_away_generation_stops(
    route: str, body: dict[str, Any], stream: bool
) -> None:
    service = FakeService()
    service.gate.clear()
    app = app_of(service)
    async with on_loopback(app) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            asking = client.stream("POST", route, json={**body, "stream": stream})
            if stream:
                async with asking as reply:
                    assert reply.status_code == 200
                    await service.generating.wait()
            else:
                task = asyncio.create_task(client.post(route, json=body))
                await service.generating.wait()
                task.cancel()
        async with asyncio.timeout(5.0):
            await service.stopped.wait()
        assert service.completed == 0
        # Its place is free again, and it counts as given up.
        metrics = await metrics_when_idle(url)
    if stream:
        assert sample(metrics, "raygion_streams_total", route=route, end="client_gone") == 1
    else:
        total = "raygion_http_requests_total"
        assert sample(metrics, total, route=route, status="499") == 1


class Wire:
    """The server's side of one request, on which sending waits until it is let."""

    def __init__(self, body: dict[str, Any]) -> None:
        self._body: bytes | None = orjson.dumps(body)
        self.sending, self.may_send, self.gone = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message.get("body"):
            self.sending.set()
            await self.may_send.wait()

    async def run(self, service: FakeService) -> None:
        scope = {"type": "http", "method": "POST", "path": "/v1/answer", "headers": []}
        app = app_of(service)
        await app({**scope, "query_string": b""}, self.receive, self.send)


async def test_a_slow_reader_holds_the_service_back() -> None:
    service, wire = FakeService(), Wire(STREAMED)
    answering = asyncio.create_task(wire.run(service))
    await wire.sending.wait()
    assert service.num_tokens == 0
    wire.may_send.set()
    await answering
    assert (service.num_tokens, service.completed) == (3, 1)


async def test_a_client_lost_while_a_piece_is_on_its_way_stops_the_generation() -> None:
    """The events are not awaited then, so cancelling alone does not reach them."""

    class Kept(FakeService):
        def answer_events(self, request: Any) -> AsyncGenerator[Any, None]:
            # Held, so that nothing but `aclose` ends them.
            self.events = super().answer_events(request)
            return self.events

    service, wire = Kept(), Wire(STREAMED)
    answering = asyncio.create_task(wire.run(service))
    await wire.sending.wait()
    wire.gone.set()
    await answering
    assert service.stopped.is_set()


async def test_cancelling_the_request_stops_the_generation() -> None:
    """As servers do that tell of a lost client by cancelling."""
    for stream in (True, False):
        service = FakeService()
        service.gate.clear()
        async with in_process(service) as client:
            asking = asyncio.create_task(
                client.post("/v1/answer", json={**QUESTION, "stream": stream})
            )
            await service.generating.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert service.stopped.is_set()


async def test_a_search_is_given_up_when_its_client_goes_away() -> None:
    service = FakeService()
    service.gate.clear()
    async with on_loopback(app_of(service)) as url:
        impatient = httpx.Timeout(30, read=0.2)
        async with httpx.AsyncClient(base_url=url) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.post("/v1/search", json={"query": "tea"}, timeout=impatient)
        # The gate stays closed: only giving up ends the search.
        await metrics_when_idle(url)
    assert len(service.searches) == 1
