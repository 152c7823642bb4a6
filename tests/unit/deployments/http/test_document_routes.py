"""Single documents over HTTP: each with its own result, whatever its id."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.clock import Deadline
from cluster.deltas.cursor import cursor_of, parse_cursor
from cluster.documents.write_checks import WRITES_MAX
from cluster.errors import (
    Conflict,
    InvalidArgument,
    NotYet,
    OutcomeUnknown,
    Overloaded,
    Unavailable,
)
from cluster.mutations.requests import DocumentWrite
from cluster.mutations.watermark import Watermark
from deployments.http.schemas.documents import DocumentReply, FailedWriteReply, WriteReply
from deployments.http.streams.change_stream import change_events
from tests.support.http_replies import sample
from tests.support.worlds.fake_documents import FakeDocuments
from tests.support.worlds.fake_service import FakeService, app_of, on_loopback

GOOD = {"id": "T-1", "text": "The lift is out.", "metadata": {"state": "open"}}
DOCUMENTS = "/v1/documents"
CHANGES = "/v1/corpora/tickets/changes"


@contextlib.asynccontextmanager
async def asking(documents: FakeDocuments, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = app_of(FakeService(), documents=documents, **settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://region") as client:
        yield client


async def put(
    documents: FakeDocuments, *written: object, headers: dict[str, str] | None = None, **body: Any
) -> httpx.Response:
    async with asking(documents) as client:
        return await client.put(
            DOCUMENTS,
            json={"corpus": "tickets", "documents": list(written), **body},
            headers=headers or {},
        )


def path(id: str) -> str:
    return f"{DOCUMENTS}/{quote(id, safe='')}"


async def test_a_document_is_written_read_and_deleted() -> None:
    async with asking(FakeDocuments()) as client:
        body = {"corpus": "tickets", "documents": [GOOD], "wait": "visible"}
        written = await client.put(DOCUMENTS, json=body)
        read = await client.get(path("T-1"), params={"corpus": "tickets"})
        deleted = await client.delete(path("T-1"), params={"corpus": "tickets", "wait": "all"})
        gone = await client.get(path("T-1"), params={"corpus": "tickets"})

    assert written.status_code == 200
    reply = written.json()
    WriteReply.model_validate(reply, strict=True)
    assert reply["documents"] == [{"id": "T-1", "version": "1700000000001.0.north", "position": 1}]
    assert (reply["written"], reply["failed"], reply["acknowledged"]) == (1, 0, "visible")
    assert reply["trace_id"] == written.headers["x-trace-id"]
    assert read.status_code == 200
    DocumentReply.model_validate(read.json(), strict=True)
    assert read.json()["text"] == GOOD["text"]
    assert read.json()["metadata"] == {"state": "open"}
    assert read.json()["version"] == "1700000000001.0.north"
    assert read.json()["changed_ms"] == 1_700_000_000_001
    assert deleted.json()["documents"][0]["position"] == 2
    assert deleted.json()["acknowledged"] == "all"
    assert gone.status_code == 404
    assert gone.json()["error"]["code"] == "not_found"


async def test_one_bad_document_does_not_fail_the_others() -> None:
    documents = FakeDocuments(clash=Conflict("it has another version"))

    reply = await put(
        documents, GOOD, {"id": "T-2"}, {**GOOD, "id": "T-3", "text": "clash"}, {"txt": 1}, GOOD
    )

    assert reply.status_code == 207
    WriteReply.model_validate(reply.json(), strict=True)
    first, textless, clash, odd, last = reply.json()["documents"]
    assert (reply.json()["written"], reply.json()["failed"]) == (2, 3)
    assert (first["position"], last["position"]) == (1, 2)
    assert textless == {
        "id": "T-2",
        "error": {
            "code": "invalid_argument",
            "message": "text: must be a string, not missing",
            "retryable": False,
            "field": "text",
        },
    }
    assert (clash["id"], clash["error"]["code"]) == ("T-3", "conflict")
    assert (odd["id"], odd["error"]["field"]) == (None, "txt")


async def test_deletes_and_upserts_of_one_document_go_in_order() -> None:
    documents = FakeDocuments()
    reply = await put(documents, GOOD, {"id": "T-1", "delete": True}, GOOD)

    assert reply.status_code == 200
    assert [change.content is None for change in documents.log] == [False, True, False]


@pytest.mark.parametrize(
    ("errors", "status", "retry_after"),
    [
        ((InvalidArgument("is wrong", "metadata.state"),), 400, None),
        ((Conflict("has another version"),), 409, None),
        ((Overloaded("full", 2.2),), 503, "3"),
        ((InvalidArgument("is wrong", "text"), Unavailable("away")), 503, "1"),
        ((OutcomeUnknown("secret"),), 500, None),
    ],
)
async def test_a_request_of_which_nothing_is_written_says_so_by_its_status(
    errors: tuple[Any, ...], status: int, retry_after: str | None
) -> None:
    refusals = {f"e{n}": error for n, error in enumerate(errors)}
    reply = await put(FakeDocuments(**refusals), *({**GOOD, "text": text} for text in refusals))

    assert reply.status_code == status
    assert reply.headers.get("retry-after") == retry_after
    FailedWriteReply.model_validate(reply.json(), strict=True)
    assert len(reply.json()["documents"]) == len(errors)
    assert "secret" not in reply.text
    if status == 500:
        assert "send it again with the same key" in reply.json()["error"]["message"]


async def test_what_is_written_but_not_yet_seen_everywhere_is_no_failure() -> None:
    documents = FakeDocuments()
    documents.unmet = NotYet("region south does not answer")

    reply = await put(documents, GOOD, wait="all")

    assert reply.status_code == 202
    WriteReply.model_validate(reply.json(), strict=True)
    assert (reply.json()["written"], reply.json()["acknowledged"]) == (1, "durable")
    assert reply.json()["unmet"]["code"] == "not_yet"


async def test_one_key_makes_a_request_one_that_can_be_repeated() -> None:
    documents = FakeDocuments()
    reply = await put(documents, GOOD, headers={"Idempotency-Key": "again"})
    await put(documents, GOOD, {**GOOD, "key": "own"}, headers={"Idempotency-Key": "k"})

    assert reply.json()["documents"][0]["repeated"] is True
    writes = [write for request in documents.requests for write in request.writes]
    keys = [write.key for write in writes if isinstance(write, DocumentWrite)]
    assert keys == ["again", "k/0", "own"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"documents": [GOOD]}, "corpus"),
        ({"corpus": "tickets"}, "documents"),
        ({"corpus": "tickets", "documents": []}, "documents"),
        ({"corpus": "tickets", "documents": [GOOD] * (WRITES_MAX + 1)}, "documents"),
        ({"corpus": "tickets", "documents": GOOD}, "documents"),
        ({"corpus": "tickets", "documents": [GOOD], "wait": "later"}, "wait"),
        ({"corpus": "tickets", "documents": [GOOD], "timeout_ms": 0}, "timeout_ms"),
        ({"corpus": "tickets", "documents": [GOOD], "wit": "all"}, "wit"),
        ({"corpus": "other", "documents": [GOOD]}, "corpus"),
    ],
)
async def test_a_wrong_request_is_refused_by_its_field_and_nothing_is_written(
    body: dict[str, Any], field: str
) -> None:
    documents = FakeDocuments()
    async with asking(documents) as client:
        reply = await client.put(DOCUMENTS, json=body)

    assert reply.status_code == 400
    assert reply.json()["error"]["field"] == field
    assert documents.log == []


@pytest.mark.parametrize(
    ("query", "field"),
    [("", "corpus"), ("corpus=tickets&corpus=b", "corpus"), ("corpus=tickets&x=1", "x")],
)
async def test_a_wrong_url_is_refused_by_its_field(query: str, field: str) -> None:
    async with asking(FakeDocuments()) as client:
        for method in ("GET", "DELETE"):
            reply = await client.request(method, f"{DOCUMENTS}/T-1?{query}")
            assert reply.status_code == 400
            assert reply.json()["error"]["field"] == field


async def test_a_delete_demands_a_version_like_any_write() -> None:
    documents = FakeDocuments()
    async with asking(documents) as client:
        asked = {"corpus": "tickets", "if_version": "5.0.north", "timeout_ms": "1500"}
        reply = await client.delete(path("T-1"), params=asked)
        wrong = await client.delete(path("T-1"), params={**asked, "if_version": "five"})

    request, _ = documents.requests
    assert reply.status_code == 200
    (write,) = request.writes
    assert isinstance(write, DocumentWrite)
    assert str(write.if_version) == "5.0.north"
    assert request.timeout_s == 1.5
    assert wrong.status_code == 400
    assert wrong.json()["error"]["field"] == "if_version"


IDS = [
    "a/b/c",
    "a//b",
    "/",
    "50% off?",
    "#1",
    "naïve 東京 🦀",
    "..",
    ".",
    "a/../b",
    "a+b&c=d",
    " x ",
]


@pytest.mark.parametrize("id", IDS)
async def test_any_id_can_be_read_and_deleted_by_its_url(id: str) -> None:
    documents = FakeDocuments()
    # Over a socket, since proxies and servers are what might change a path.
    async with (
        on_loopback(app_of(FakeService(), documents=documents)) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        body = {"corpus": "tickets", "documents": [{"id": id, "text": "t"}]}
        assert (await client.put(DOCUMENTS, json=body)).status_code == 200
        # A client takes dots for steps in a path unless they are escaped, too.
        url_path = path(id).replace(".", "%2E")
        read = await client.get(url_path, params={"corpus": "tickets"})
        deleted = await client.delete(url_path, params={"corpus": "tickets"})

    assert read.status_code == 200
    assert read.json()["id"] == id
    assert deleted.json()["documents"][0]["id"] == id
    assert documents.log[-1].document == id


async def test_metrics_tell_documents_apart_by_route_alone() -> None:
    async with asking(FakeDocuments()) as client:
        await client.get(path("T-1"), params={"corpus": "tickets"})
        await client.get(path("a/b"), params={"corpus": "tickets"})
        await client.get("/v1/documented")
        metrics = (await client.get("/metrics")).text

    def count(route: str) -> float:
        return sample(metrics, "raygion_http_requests_total", route=route, status="404")

    assert count("/v1/documents/{id}") == 2
    assert count("unknown") == 1


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
    await put(documents, GOOD)
    async with asking(documents) as client:
        broken = await client.get(CHANGES)
        unknown = await client.get("/v1/corpora/other/changes")
        wrong = await client.get(CHANGES, params={"after": "5"})

    assert [each["event"] for each in events_of(broken.text)] == ["change", "current", "error"]
    assert unknown.status_code == 400
    assert unknown.json()["error"]["field"] == "corpus"
    assert wrong.status_code == 400
    assert wrong.json()["error"]["field"] == "after"


async def test_a_stream_ends_after_its_time_behind_what_is_told() -> None:
    documents = FakeDocuments()
    await put(documents, GOOD)
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
