"""The region over real HTTP, through HAProxy: what callers get, and what bad callers get."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from actors.models.starter_models import STARTER_GENERATOR
from tests.support.regions.region_fixture import (
    BODY_BYTES_MAX,
    CONTEXT_TOKENS_MAX,
    REGION,
    SEQUENCES_MAX,
    LiveRegion,
    posted,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

QUESTION = "What is the Saxon Garden in Polish?"
PARAGRAPH = "Warsaw/0"
ENDLESS = "Write a very long novel about a whale. Never stop."


def events_of(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """The server-sent events as (event, data)."""
    event = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            event = line.removeprefix("event: ")
        elif line:
            yield event, json.loads(line.removeprefix("data: "))


# Search


def test_one_query_finds_passages_with_their_metadata(
    shared_region: LiveRegion, http: httpx.Client
) -> None:
    reply = http.post("/v1/search", json={"corpus": "xquad", "query": QUESTION, "top_k": 3})
    assert reply.status_code == 200
    found = reply.json()
    assert found["hits"][0]["id"] == PARAGRAPH
    assert len(found["hits"]) == 3
    scores = [h["score"] for h in found["hits"]]
    assert scores == sorted(scores, reverse=True)
    best = found["hits"][0]
    assert best["text"] == shared_region.xquad.passages[PARAGRAPH]["text"]
    assert best["metadata"] == shared_region.xquad.passages[PARAGRAPH]["metadata"]
    assert (found["release"], found["region"]) == (shared_region.release, REGION)
    assert (found["coverage"], found["took_ms"] > 0) == (1.0, True)
    assert reply.headers["x-trace-id"] == found["trace_id"]


def test_a_batch_is_answered_in_its_order(shared_region: LiveRegion, http: httpx.Client) -> None:
    asked = shared_region.xquad.questions[::60]
    batch = shared_region.search(http, queries=[q.question for q in asked], top_k=2)
    alone = [shared_region.search(http, query=q.question, top_k=2)["hits"] for q in asked]
    assert [[h["id"] for h in r["hits"]] for r in batch["results"]] == [
        [h["id"] for h in hits] for hits in alone
    ]
    vectors = [v.tolist() for v in list(shared_region.vectors.values())[:3]]
    by_vector = shared_region.search(http, vectors=vectors, top_k=1)
    assert [r["hits"][0]["id"] for r in by_vector["results"]] == list(shared_region.vectors)[:3]
    one = shared_region.search(http, vectors=vectors[:1], top_k=1)
    assert [list(r) for r in one["results"]] == [["hits"]]


def test_filter_and_fields_go_through_to_the_shards(
    shared_region: LiveRegion, http: httpx.Client
) -> None:
    hits = shared_region.search(
        http, query=QUESTION, filter={"title": {"in": ["Nikola Tesla"]}}, fields=["title"]
    )["hits"]
    assert {h["id"] for h in hits} == {"Nikola_Tesla/0", "Nikola_Tesla/1"}
    assert all(h["metadata"] == {"title": "Nikola Tesla"} for h in hits)


def test_a_callers_trace_id_is_kept(http: httpx.Client) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    reply = http.post("/v1/search", json={"corpus": "xquad", "query": "tea"}, headers=headers)
    assert reply.json()["trace_id"] == reply.headers["x-trace-id"] == trace_id


# Answers


def test_an_answer_cites_the_paragraph_that_it_is_made_of(
    shared_region: LiveRegion, http: httpx.Client
) -> None:
    right = 0
    asked = shared_region.xquad.questions[:40:5]
    for question in asked:
        # With other passages beside the right one, the starter model takes more of its answers
        # from the wrong ones.
        body = {"corpus": "xquad", "question": question.question, "max_tokens": 32, "top_k": 1}
        reply = posted(http, "/v1/answer", body)
        cited = {c["id"]: c for c in reply["citations"]}
        assert question.paragraph in cited
        passage = shared_region.xquad.passages[question.paragraph]
        assert cited[question.paragraph]["text"] == passage["text"]
        assert (reply["release"], reply["region"]) == (shared_region.release, REGION)
        assert reply["model"] == STARTER_GENERATOR
        assert 0 < reply["usage"]["completion_tokens"] <= 32
        assert reply["usage"]["prompt_tokens"] > len(passage["text"]) / 10
        right += any(a.lower() in reply["answer"].lower() for a in question.answers)
    # The starter model is small; but without the passages it would know hardly any of these.
    assert right >= len(asked) // 2, f"{right} of {len(asked)} answers hold the gold answer"


def test_an_answer_streams_its_events_in_order(
    shared_region: LiveRegion, http: httpx.Client
) -> None:
    body = {"corpus": "xquad", "question": QUESTION, "max_tokens": 48}
    with http.stream("POST", "/v1/answer", json={**body, "stream": True}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        events = list(events_of(response))
    names = [name for name, _ in events]
    assert names == ["retrieved", *["token"] * (len(names) - 2), "done"]
    assert len(names) > 4
    retrieved, done = events[0][1], events[-1][1]
    assert retrieved["citations"][0]["id"] == PARAGRAPH
    for key in ("citations", "release", "region", "coverage", "model", "trace_id"):
        assert retrieved[key] == done[key]
    assert "".join(data["text"] for _, data in events[1:-1]).strip() == done["answer"]
    whole = posted(http, "/v1/answer", body)
    assert whole["answer"] == done["answer"]
    assert whole.keys() == done.keys()


def test_a_filter_narrows_what_an_answer_is_made_of(http: httpx.Client) -> None:
    body = {"corpus": "xquad", "question": QUESTION, "filter": {"title": "Packet switching"}}
    reply = posted(http, "/v1/answer", {**body, "max_tokens": 8})
    assert {c["id"].split("/")[0] for c in reply["citations"]} == {"Packet_switching"}
    assert reply["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_the_generation(
    shared_region: LiveRegion, http: httpx.Client, stream: bool
) -> None:
    """The engine writes two answers at once and in step: a third one gets its turn only when one
    has ended, and were that not the one that was left, both would have come to their end.
    """
    endless = {
        "model": STARTER_GENERATOR,
        "messages": [{"role": "user", "content": ENDLESS}],
        "temperature": 0,
        "max_tokens": 1024,
        "raygion": {"timeout_ms": 250_000},
    }
    assert SEQUENCES_MAX == 2
    with ExitStack() as staying:
        with ExitStack() as leaving:
            client = leaving.enter_context(shared_region.http())
            request = client.build_request(
                "POST", "/v1/chat/completions", json={**endless, "stream": stream}
            )
            if stream:
                response = client.send(request, stream=True)
                leaving.callback(response.close)
                lines = response.iter_lines()
                leaving.callback(lines.close)
                while '"content"' not in next(lines):
                    pass
            else:
                _send_only(request, leaving)
            stays = _send_only(
                client.build_request("POST", "/v1/chat/completions", json=endless), staying
            )
            wait_until(lambda: _in_flight(http) == SEQUENCES_MAX, "the requests to be under way")
            third = {**endless, "raygion": {"timeout_ms": 1500}}
            assert http.post("/v1/chat/completions", json=third).status_code == 504
        third = {**endless, "max_tokens": 100}
        reply = http.post("/v1/chat/completions", json=third, timeout=240)
        assert reply.json()["usage"]["completion_tokens"] == 100
        answered, _, _ = select.select([stays], [], [], 0)
        assert not answered, "the model came free only when both had ended"
    wait_until(lambda: _in_flight(http) == 0, "the gateway to notice")


def _send_only(request: httpx.Request, leaving: ExitStack) -> socket.socket:
    """Sends a request and does not wait for its reply; leaving closes the connection."""
    connection = leaving.enter_context(
        socket.create_connection((request.url.host, request.url.port))
    )
    head = f"POST {request.url.path} HTTP/1.1\r\nHost: region\r\n"
    head += f"Content-Length: {len(request.content)}\r\n\r\n"
    connection.sendall(head.encode() + request.content)
    return connection


def _metrics(http: httpx.Client) -> dict[str, float]:
    lines = http.get("/metrics").text.splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def _in_flight(http: httpx.Client) -> float:
    return _metrics(http)["raygion_http_requests_in_flight"]


@pytest.mark.parametrize("times", [300, 5000])
def test_a_conversation_beyond_the_models_length_is_refused(http: httpx.Client, times: int) -> None:
    """Without retrieval it may have 262,144 characters; the model reads 2,048 tokens."""
    message = {"role": "user", "content": "The quick brown fox jumps over the lazy dog. " * times}
    body = {"model": STARTER_GENERATOR, "messages": [message], "max_tokens": 8}
    refused = http.post("/v1/chat/completions", json=body)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (400, "context_length_exceeded")
    assert f"maximum context length is {CONTEXT_TOKENS_MAX} tokens" in error["message"]


def test_passages_beyond_the_models_length_are_left_out(http: httpx.Client) -> None:
    body = {"corpus": "xquad", "question": QUESTION, "top_k": 40, "max_tokens": 8}
    reply = posted(http, "/v1/answer", body)
    assert 3 < len(reply["citations"]) < 30
    assert reply["truncated"]["passages"] > 0
    assert reply["truncated"]["history_messages"] == 0
    assert CONTEXT_TOKENS_MAX // 2 < reply["usage"]["prompt_tokens"] <= CONTEXT_TOKENS_MAX - 8
    refused = http.post("/v1/answer", json={**body, "truncation": "disabled"})
    assert refused.json()["error"]["code"] == "context_length_exceeded"


# What is refused


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "wrong dimension": ({"vector": [0.5, 0.25]}, "vectors"),
    "too large a number": ({"vector": [1e39] * 384}, "vector"),
    "too long a vector": ({"vector": [1e30] * 384}, "vectors[0]"),
    "unequal vectors": ({"vectors": [[1.0], [1.0, 2.0]]}, "vectors"),
    "no vectors": ({"vectors": []}, "vectors"),
    "nothing asked": ({}, "query"),
    "two things asked": ({"query": "tea", "vector": [1.0] * 384}, "vector"),
    "empty text": ({"query": " "}, "query"),
    "long text": ({"query": "x" * 8193}, "query"),
    "top_k of 0": ({"query": "tea", "top_k": 0}, "top_k"),
    "top_k of 1001": ({"query": "tea", "top_k": 1001}, "top_k"),
    "unknown corpus": ({"query": "tea", "corpus": "nowhere"}, "corpus"),
    "no corpus where there are several": ({"query": "tea", "corpus": None}, "corpus"),
    "unknown release": ({"query": "tea", "release": 999}, "release"),
    "unknown filter field": ({"query": "tea", "filter": {"colour": "red"}}, "filter.colour"),
    "wrong filter type": ({"query": "tea", "filter": {"chars": "many"}}, "filter.chars"),
    "unknown metadata field": ({"query": "tea", "fields": ["colour"]}, "fields"),
    "unknown key": ({"query": "tea", "limit": 3}, "limit"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_search_names_the_field(http: httpx.Client, name: str) -> None:
    body, field = REFUSED[name]
    reply = http.post("/v1/search", json={"corpus": "xquad", **body})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["field"]) == (400, "invalid_argument", field)
    assert error["message"].startswith(f"{field}: ")
    assert not error["retryable"]
    assert reply.headers["x-trace-id"] == error["trace_id"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b'{"vector": [NaN]}', b'{"query": "\xff"}', b"[" * 10_000]
)
@pytest.mark.parametrize("path", ["/v1/search", "/v1/answer", "/v1/chat/completions"])
def test_what_is_no_json_object_is_refused(http: httpx.Client, path: str, body: bytes) -> None:
    reply = http.post(path, content=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["field"] == "body"


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_long_is_refused_through_haproxy(
    http: httpx.Client, declared: bool
) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(BODY_BYTES_MAX // 65_536 + 4):
            yield b" " * 65_536

    content: Any = b" " * (BODY_BYTES_MAX + 1) if declared else pieces()
    reply = http.post("/v1/search", content=content)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "too_large")
    assert http.get("/healthz").status_code == 200


def test_unknown_routes_methods_and_models(http: httpx.Client) -> None:
    assert http.get("/v2/search").json()["error"]["code"] == "not_found"
    wrong_method = http.get("/v1/search")
    assert (wrong_method.status_code, wrong_method.headers["allow"]) == (405, "POST")
    chat = {"model": "gpt-9", "messages": [{"role": "user", "content": "Hello"}]}
    reply = http.post("/v1/chat/completions", json=chat)
    assert reply.status_code == 404
    assert f"raygion, {STARTER_GENERATOR}" in reply.json()["error"]["message"]


def test_time_that_is_over_is_a_504_and_the_region_goes_on(
    shared_region: LiveRegion, http: httpx.Client
) -> None:
    body = {"corpus": "xquad", "question": QUESTION, "max_tokens": 1000, "timeout_ms": 20}
    reply = http.post("/v1/answer", json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert reply.json()["error"]["retryable"]
    assert shared_region.search(http, query=QUESTION)["hits"]


# Health and what operators look at


def test_health_status_and_models(shared_region: LiveRegion, http: httpx.Client) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json()["status"] == "ready"
    status = http.get("/v1/status").json()
    assert (status["region"], status["release"]) == (REGION, shared_region.release)
    assert (status["leader"], status["healthy"]) == (REGION, True)
    resident = {r["release"]: r for r in status["resident"]}[shared_region.release]
    assert resident["model"] == STARTER_GENERATOR
    xquad = next(c for c in resident["corpora"] if c["corpus"] == "xquad")
    assert xquad["num_passages"] == len(shared_region.xquad.passages)
    assert (xquad["shards"], xquad["replicas"], xquad["replicas_serving"]) == (2, 4, 4)
    assert (xquad["recall_at_10"], len(xquad["index_version"])) == (1.0, 16)
    models = http.get("/v1/models").json()["data"]
    names = [m["id"] for m in models]
    assert (names[0], names[-1]) == ("raygion", STARTER_GENERATOR)
    assert all(name.startswith("raygion/") for name in names[1:-1])


def test_the_openapi_page_lists_every_route(http: httpx.Client) -> None:
    schema = http.get("/openapi.json").json()
    assert {"/v1/search", "/v1/answer", "/v1/chat/completions", "/v1/models", "/v1/status"} <= set(
        schema["paths"]
    )
    assert http.get("/docs").status_code == 200


def test_metrics_count_what_was_done(shared_region: LiveRegion, http: httpx.Client) -> None:
    good = 'raygion_http_requests_total{route="/v1/search",status="200"}'
    bad = 'raygion_http_requests_total{route="/v1/search",status="400"}'
    before = _metrics(http)
    shared_region.search(http, query=QUESTION)
    http.post("/v1/search", json={"corpus": "xquad"})
    after = _metrics(http)
    assert after[good] - before.get(good, 0) == 1
    assert after[bad] - before.get(bad, 0) == 1
    assert after["raygion_current_release"] == shared_region.release
    assert after["raygion_region_healthy"] == 1
    stages = {name for name in after if name.startswith("raygion_search_stage_duration_seconds_s")}
    for stage in ("embed", "scatter", "merge", "fetch"):
        assert any(f'stage="{stage}"' in name for name in stages)
