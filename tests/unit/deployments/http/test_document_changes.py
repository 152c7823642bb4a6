"""The change feed over HTTP: told as documents change, resumed, and bounded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.clock import Deadline
from cluster.deltas.cursor import cursor_of, parse_cursor
from cluster.errors import InvalidArgument, Unavailable
from cluster.mutations.watermark import Watermark
from deployments.http.document_routes import STREAMS_MAX
from deployments.http.streams.change_stream import change_events
from tests.support.worlds.fake_documents import FakeDocuments
from tests.support.worlds.fake_service import FakeService, app_of, on_loopback

GOOD = {"id": "T-1", "text": "The lift is out.", "metadata": {"state": "open"}}
DOCUMENTS = "/v1/documents"
CHANGES = "/v1/corpora/tickets/changes"


@contextlib.asynccontextmanager
async def asking(documents: FakeDocuments) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app_of(FakeService(), documents=documents))
    async with httpx.AsyncClient(transport=transport, base_url="http://region") as client:
        yield client


async def write(documents: FakeDocuments) -> None:
    async with asking(documents) as client:
        body = {"corpus": "tickets", "documents": [GOOD]}
        assert (await client.put(DOCUMENTS, json=body)).status_code == 200


def events_of(text: str) -> list[dict[str, Any]]:
    """Reads events as a browser does."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line[0] != ":")
        if fields:
            found.append(fields | {"data": orjson.loads(fields.get("data", "null"))})
    return found


async def read_until(
    client: httpx.AsyncClient, count: int, headers: dict[str, str] | None = None, **query: str
) -> list[dict[str, Any]]:
    """The events of the feed until so many changes are told; then the client goes."""
    text = ""
    async with client.stream("GET", CHANGES, params=query, headers=headers or {}) as reply:
        assert reply.status_code == 200
        async for piece in reply.aiter_text():
            text += piece
            events = events_of(text) if text.endswith("\n\n") else []
            told = [event for event in events if event.get("event") == "change"]
            if len(told) >= count and events[-1].get("event") == "current":
                return events
    raise AssertionError(text)


async def test_changes_are_followed_and_resumed() -> None:
    documents = FakeDocuments()
    async with (
        on_loopback(app_of(FakeService(), documents=documents)) as url,
        httpx.AsyncClient(base_url=url, timeout=10.0) as client,
    ):
        body = {"corpus": "tickets", "documents": [GOOD, {"id": "T-1", "delete": True}]}
        await client.put(DOCUMENTS, json=body)
        first, second, current = await read_until(client, 2)
        await documents.has_closed.wait()
        following = asyncio.create_task(read_until(client, 1, after=current["data"]["after"]))
        resumed = asyncio.create_task(read_until(client, 1, {"Last-Event-ID": current["id"]}))
        await asyncio.sleep(0)
        await client.put(DOCUMENTS, json={"corpus": "tickets", "documents": [GOOD]})
        seen, also_seen = await following, await resumed

    assert (first["event"], second["event"]) == ("change", "change")
    assert first["data"] == {**GOOD, "version": "1700000000001.0.north"}
    assert second["data"] == {"id": "T-1", "version": "1700000000002.0.north", "deleted": True}
    assert current["id"] == current["data"]["after"] == "north:2"
    for events in (seen, also_seen):
        told = [each["data"]["version"] for each in events if each["event"] == "change"]
        assert told == ["1700000000003.0.north"]
        assert events[-1]["id"] == "north:3"


async def test_a_feed_that_fails_says_so() -> None:
    documents = FakeDocuments()
    documents.error = Unavailable("the store does not answer")
    await write(documents)
    async with asking(documents) as client:
        broken = await client.get(CHANGES)
        unknown = await client.get("/v1/corpora/other/changes")
        wrong = await client.get(CHANGES, params={"after": "5"})

    assert [each["event"] for each in events_of(broken.text)] == ["change", "current", "error"]
    assert unknown.status_code == 400
    assert unknown.json()["error"]["field"] == "corpus"
    assert wrong.status_code == 400
    assert wrong.json()["error"]["field"] == "after"


async def test_streams_of_changes_leave_room_for_searches() -> None:
    documents = FakeDocuments()
    async with (
        on_loopback(app_of(FakeService(), documents=documents)) as url,
        httpx.AsyncClient(base_url=url, timeout=10.0) as client,
        contextlib.AsyncExitStack() as streams,
    ):
        for _ in range(STREAMS_MAX):
            reply = await streams.enter_async_context(client.stream("GET", CHANGES))
            assert reply.status_code == 200
        refused = await client.get(CHANGES)
        found = await client.post("/v1/search", json={"query": "tea"})

    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "overloaded"
    assert found.status_code == 200


async def test_a_stream_ends_after_its_time_behind_what_is_told() -> None:
    documents = FakeDocuments()
    await write(documents)
    changes = documents.changes("tickets", Watermark())
    events = [event async for event in change_events(changes, Deadline.after(0.0))]

    assert [event.count(b"event: ") for event in events] == [1, 1]
    assert events[-1].startswith(b"id: north:1\nevent: current\n")
    assert documents.has_closed.is_set()


REGIONS = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True)


@given(st.dictionaries(REGIONS, st.integers(0, 2**63 - 1), max_size=5))
def test_cursors_say_what_was_read(positions: dict[str, int]) -> None:
    watermark = Watermark.of(positions)
    assert parse_cursor(cursor_of(watermark), "after") == watermark


@pytest.mark.parametrize("text", ["", "eu", "eu:0", "eu:-1", "eu:1,eu:2", "EU:1", "eu:1,"])
def test_other_texts_are_no_cursors(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_cursor(text, "after")
