"""Single documents over HTTP: each with its own result, whatever its id."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

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
from deployments.http.schemas.documents import DocumentReply, FailedWriteReply, WriteReply
from deployments.http.settings import HttpSettings
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


async def test_a_long_body_is_read_like_a_short_one() -> None:
    documents = FakeDocuments()
    long = [{"id": str(n), "text": "word " * 200} for n in range(100)]
    reply = await put(documents, *long, {"id": "x"})
    assert reply.status_code == 207
    assert len(documents.log) == 100
    assert (await put(documents, *long, wait="later")).json()["error"]["field"] == "wait"


async def test_documents_need_a_key_where_there_are_keys() -> None:
    documents = FakeDocuments()
    async with asking(documents, settings=HttpSettings(api_keys=("secret",))) as client:
        body = {"corpus": "tickets", "documents": [GOOD]}
        refused = await client.put(DOCUMENTS, json=body)
        for method in ("GET", "DELETE"):
            asked = await client.request(method, path("T-1"), params={"corpus": "tickets"})
            assert asked.status_code == 401
        assert (await client.get(CHANGES)).status_code == 401
        allowed = await client.put(DOCUMENTS, json=body, headers={"Authorization": "Bearer secret"})

    assert (refused.status_code, allowed.status_code) == (401, 200)
    assert len(documents.log) == 1


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
