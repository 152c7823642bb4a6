"""The HTTP interface over a fake region: what goes in, what comes out, who may ask, how much."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from cluster import errors
from cluster.errors import InvalidArgument
from cluster.logs.events import Event
from cluster.logs.formats import JsonFormatter
from cluster.query.filters import Compare, Comparison
from deployments.http.schemas.replies import (
    AnswerReply,
    BatchSearchReply,
    SearchReply,
    StatusReply,
)
from deployments.http.settings import HttpSettings
from deployments.http.shared_summary import FRESH_S
from tests.support.fakes import SimClock
from tests.support.http_replies import error_of, sample
from tests.support.worlds.fake_service import (
    ASK,
    HIT,
    MADE,
    SUMMARY,
    FakeService,
    app_of,
    in_process,
    on_loopback,
)

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


async def test_search_by_text() -> None:
    service = FakeService()
    async with in_process(service) as client:
        reply = await client.post("/v1/search", json=ASK, headers={"traceparent": TRACEPARENT})
    assert reply.status_code == 200
    assert reply.json() == {
        "hits": [
            {"id": HIT.id, "score": HIT.score, "text": HIT.text, "metadata": {"area": 103000}}
        ],
        "release": 7,
        "region": "north",
        "coverage": 1.0,
        "took_ms": 1.235,
        "trace_id": TRACE,
        **MADE,
    }
    SearchReply.model_validate_json(reply.content, strict=True)
    (asked,) = service.searches
    assert (asked.queries, asked.vectors) == ((ASK["query"],), None)
    assert (asked.top_k, asked.timeout_s, asked.min_coverage) == (10, 5.0, 1.0)


async def test_search_by_vector_with_everything_set() -> None:
    service = FakeService()
    body = {
        "vector": [1, 0.5, -2],
        "corpus": "factbook",
        "top_k": 3,
        "filter": {"region": "europe"},
        "fields": ["area"],
        "timeout_ms": 250,
        "min_coverage": 0.5,
        "release": 6,
    }
    async with in_process(service) as client:
        reply = await client.post("/v1/search", json=body)
    assert reply.json()["release"] == 6
    (asked,) = service.searches
    assert asked.vectors is not None
    assert asked.vectors.dtype == np.float32
    np.testing.assert_array_equal(asked.vectors, np.array([[1, 0.5, -2]], dtype=np.float32))
    assert asked.filter == Compare("region", Comparison.EQ, "europe")
    assert (asked.fields, asked.timeout_s) == (("area",), 0.25)
    assert (asked.min_coverage, asked.release) == (0.5, 6)


@pytest.mark.parametrize("body", [{"queries": ["a", "b"]}, {"vectors": [[1, 2, 3], [4, 5, 6]]}])
async def test_a_batch_has_one_list_of_hits_for_each_query(body: dict[str, Any]) -> None:
    async with in_process(FakeService()) as client:
        reply = await client.post("/v1/search", json=body)
    BatchSearchReply.model_validate_json(reply.content, strict=True)
    assert len(reply.json()["results"]) == 2
    assert "hits" not in reply.json()


async def test_a_batch_of_one_is_still_a_batch() -> None:
    async with in_process(FakeService()) as client:
        reply = await client.post("/v1/search", json={"queries": ["a"]})
    assert len(reply.json()["results"]) == 1


async def test_null_means_absent_for_what_may_be_left_out() -> None:
    body = {**ASK, "vector": None, "corpus": None, "filter": None, "fields": None, "release": None}
    async with in_process(FakeService()) as client:
        assert (await client.post("/v1/search", json=body)).status_code == 200


async def test_answer() -> None:
    service = FakeService()
    body = {"question": "What is the capital?", "filter": {"region": "europe"}, "max_tokens": 9}
    async with in_process(service) as client:
        reply = await client.post("/v1/answer", json=body)
    AnswerReply.model_validate_json(reply.content, strict=True)
    assert reply.json()["answer"] == "Reykjavik [1]"
    assert reply.json()["citations"] == [{"id": HIT.id, "text": HIT.text, "score": HIT.score}]
    assert reply.json()["usage"] == {"prompt_tokens": 11, "completion_tokens": 3}
    (asked,) = service.answers
    assert (asked.question, asked.retrieve, asked.max_tokens) == (body["question"], True, 9)
    assert (asked.top_k, asked.temperature, asked.timeout_s) == (3, 0.0, 60.0)


async def test_status() -> None:
    async with in_process(FakeService()) as client:
        reply = await client.get("/v1/status")
    StatusReply.model_validate_json(reply.content, strict=True)
    assert reply.json()["resident"][0]["corpora"][0]["replicas_serving"] == 4


@pytest.mark.parametrize(
    ("error", "status", "code", "retryable", "retry_after"),
    [
        (errors.InvalidArgument("is wrong", "corpus"), 400, "invalid_argument", False, None),
        (errors.NotFound("gone"), 404, "not_found", False, None),
        (errors.Conflict("again"), 409, "conflict", True, None),
        (errors.Overloaded("full", 2.3), 503, "overloaded", True, "3"),
        (errors.Overloaded("full", 0.01), 503, "overloaded", True, "1"),
        (errors.Unavailable("no shard"), 503, "unavailable", True, "1"),
        (errors.DeadlineExceeded("late"), 504, "deadline_exceeded", True, None),
    ],
)
async def test_errors_of_the_region_reach_the_caller(
    error: errors.RaygionError, status: int, code: str, retryable: bool, retry_after: str | None
) -> None:
    service = FakeService()
    service.search_error = error
    async with in_process(service) as client:
        reply = await client.post("/v1/search", json=ASK)
    told = error_of(reply)
    assert (reply.status_code, told["code"], told["retryable"]) == (status, code, retryable)
    assert error.message in told["message"]
    assert reply.headers.get("retry-after") == retry_after
    if isinstance(error, InvalidArgument):
        assert told["field"] == told["param"] == "corpus"
        assert told["message"].startswith("corpus: ")
    else:
        assert "field" not in told


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("/secret/path"), "internal"),
        (errors.Corrupt("/secret/path does not match"), "corrupt"),
        (errors.OutcomeUnknown("/secret/path"), "outcome_unknown"),
        (errors.RaygionError("/secret/path"), "internal"),
    ],
)
async def test_nothing_of_the_inside_leaks(
    error: Exception, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = FakeService()
    service.search_error = error
    async with in_process(service) as client:
        reply = await client.post("/v1/search", json=ASK, headers={"traceparent": TRACEPARENT})
        told = error_of(reply)
        assert (reply.status_code, told["code"], told["retryable"]) == (500, code, False)
        assert told["trace_id"] == TRACE
        assert "secret" not in reply.text
        service.search_error = None
        assert (await client.post("/v1/search", json=ASK)).status_code == 200
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.exc_info is not None
    logged = json.loads(JsonFormatter().format(record))
    assert (logged["event"], logged["trace_id"]) == ("request.failed", TRACE)
    assert "/secret/path" in logged["exception"]


async def test_what_goes_well_or_is_the_callers_mistake_is_no_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with in_process(FakeService()) as client:
            assert (await client.post("/v1/search", json=ASK)).status_code == 200
            assert (await client.post("/v1/search", json={})).status_code == 400
    assert [record for record in caplog.records if isinstance(record.msg, Event)] == []


async def test_an_error_that_prints_as_a_traceback_shows_its_message_only() -> None:
    class FromActor(errors.InvalidArgument):
        def __str__(self) -> str:
            return "Traceback: /secret/path"

    service = FakeService()
    service.search_error = FromActor("is wrong", "corpus")
    async with in_process(service) as client:
        told = error_of(await client.post("/v1/search", json=ASK))
    assert told["message"] == "corpus: is wrong"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("POST", "/v1/search/", 404, "not_found"),
        ("GET", "/v1/search", 405, "method_not_allowed"),
        ("DELETE", "/v1/status", 405, "method_not_allowed"),
    ],
)
async def test_unknown_routes_and_methods(method: str, path: str, status: int, code: str) -> None:
    async with in_process(FakeService()) as client:
        reply = await client.request(method, path)
    assert (reply.status_code, error_of(reply)["code"]) == (status, code)
    assert re.fullmatch("[0-9a-f]{32}", reply.headers["x-trace-id"])
    assert ("allow" in reply.headers) == (status == 405)


KEYS = ("first-key", "second-key")


@pytest.mark.parametrize("path", ["/v1/status", "/metrics", "/docs", "/openapi.json", "/nowhere"])
@pytest.mark.parametrize(
    "presented", [None, "Bearer wrong", "Basic first-key", "Bearer", "first-key", "Bearer first-ke"]
)
async def test_without_a_valid_key_nothing_is_told(path: str, presented: str | None) -> None:
    headers = {} if presented is None else {"authorization": presented}
    async with in_process(FakeService(), api_keys=KEYS) as client:
        reply = await client.get(path, headers=headers)
    assert (reply.status_code, error_of(reply)["code"]) == (401, "unauthenticated")
    assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("presented", ["Bearer first-key", "bearer second-key"])
async def test_each_key_opens(presented: str) -> None:
    async with in_process(FakeService(), api_keys=KEYS) as client:
        for path in ("/v1/status", "/metrics", "/docs", "/openapi.json"):
            reply = await client.get(path, headers={"authorization": presented})
            assert reply.status_code == 200
        both = [("authorization", presented), ("authorization", "Bearer wrong")]
        assert (await client.get("/v1/status", headers=both)).status_code == 401
        for path in ("/healthz", "/readyz"):
            assert (await client.get(path)).status_code == 200


def test_keys_stand_in_no_text() -> None:
    assert "first-key" not in repr(HttpSettings(api_keys=KEYS))
    assert "first-key" not in repr(HttpSettings(region_keys=KEYS))
    with pytest.raises(InvalidArgument, match="in_flight_max"):
        HttpSettings(in_flight_max=0)


async def chunks_of(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 1000):
        yield body[start : start + 1000]


@pytest.mark.parametrize("route", ["/v1/search", "/v1/answer", "/v1/chat/completions"])
async def test_too_large_bodies_are_refused_however_they_are_sent(route: str) -> None:
    body = b'{"query": "' + b"a" * 20_000 + b'"}'
    app = app_of(FakeService(), HttpSettings(body_bytes_max=8192))
    async with on_loopback(app) as url, httpx.AsyncClient(base_url=url) as client:
        for content in (body, chunks_of(body)):
            reply = await client.post(route, content=content)
            assert (reply.status_code, error_of(reply)["code"]) == (413, "too_large")
        small = chunks_of(orjson.dumps({"query": "a" * 4000}))
        assert (await client.post("/v1/search", content=small)).status_code == 200


async def test_a_body_that_does_not_arrive_is_given_up() -> None:
    app = app_of(FakeService(), HttpSettings(body_timeout_s=0.05))
    async with on_loopback(app) as url:
        address = httpx.URL(url)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"POST /v1/search HTTP/1.1\r\nhost: region\r\ncontent-length: 99\r\n\r\n{")
        assert b" 504 " in await reader.readline()
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("corpus", "release", "status"),
    [
        ({}, 7, 200),
        ({"replicas_serving": 3}, 7, 200),
        ({"replicas_serving": 1}, 7, 503),
        ({}, None, 503),
        ({}, 8, 503),
    ],
)
async def test_readiness(corpus: dict[str, int], release: int | None, status: int) -> None:
    service = FakeService()
    service.says_of_corpus(**corpus)
    service.says(release=release, healthy=False)
    async with in_process(service) as client:
        assert (await client.get("/readyz")).status_code == status
        assert (await client.get("/healthz")).status_code == 200


async def test_readiness_outlives_the_coordinator() -> None:
    service = FakeService()
    service.summary = errors.Unavailable("the coordinator is away")
    clock = SimClock()
    async with in_process(service, clock, status_timeout_s=0.05) as client:
        assert (await client.get("/readyz")).status_code == 503
        clock.sleep(FRESH_S)
        service.summary = SUMMARY
        assert (await client.get("/readyz")).json() == {"status": "ready", "age_s": 0.0}
        clock.sleep(FRESH_S)
        service.summary = errors.Unavailable("the coordinator is away")
        assert (await client.get("/readyz")).json() == {"status": "ready", "age_s": FRESH_S}
        assert len((await client.get("/v1/models")).json()["data"]) == 2
        assert (await client.get("/v1/status")).status_code == 503
        clock.sleep(FRESH_S)
        service.status_hangs = True
        assert (await client.get("/readyz")).json() == {"status": "ready", "age_s": 2 * FRESH_S}
        assert (await client.get("/v1/status")).status_code == 504
        metrics = (await client.get("/metrics")).text
        assert sample(metrics, "raygion_region_healthy") == 0


async def test_metrics_count_what_happened() -> None:
    service = FakeService()
    async with in_process(service) as client:
        await client.post("/v1/search", json=ASK)
        service.coverage = 0.5
        await client.post("/v1/search", json=ASK)
        await client.post("/v1/search", json={})
        await client.get("/nowhere/at/all")
        await client.post("/v1/answer", json={"question": "?"})
        await client.post("/v1/answer", json={"question": "?", "stream": True})
        reply = await client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    metrics = reply.text
    total = "raygion_http_requests_total"
    assert sample(metrics, total, route="/v1/search", status="200") == 2
    assert sample(metrics, total, route="/v1/search", status="400") == 1
    assert sample(metrics, total, route="unknown", status="404") == 1
    duration = "raygion_http_request_duration_seconds_count"
    assert sample(metrics, duration, route="/v1/search") == 3
    stage = "raygion_search_stage_duration_seconds_sum"
    assert sample(metrics, stage, stage="embed") == pytest.approx(0.001)
    assert sample(metrics, "raygion_partial_results_total", route="/v1/search") == 1
    assert sample(metrics, "raygion_generated_tokens_total") == 6
    assert sample(metrics, "raygion_time_to_first_token_seconds_count") == 1
    assert sample(metrics, "raygion_streams_total", route="/v1/answer", end="done") == 1
    assert sample(metrics, "raygion_current_release") == 7
    assert sample(metrics, "raygion_region_healthy") == 1
