"""Whatever is sent, the answer is typed and names the field: tables, then anything at all."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.search.checks import HITS_MAX
from deployments.http.openai.chat import ChatBody
from deployments.http.schemas.json_body import Body
from deployments.http.schemas.replies import ErrorReply
from deployments.http.schemas.search import SearchBody
from tests.support.worlds.fake_service import ASK, FakeService, app_of, in_process

QUESTION = {"question": "What is the capital of Iceland?"}
USER = {"role": "user", "content": "What is the capital of Iceland?"}
CHAT = {"model": "raygion", "messages": [USER]}

SHARED: list[tuple[dict[str, Any], str]] = [
    ({"top_k": 0}, "top_k"),
    ({"top_k": 1001}, "top_k"),
    ({"top_k": "3"}, "top_k"),
    ({"top_k": 3.5}, "top_k"),
    ({"top_k": True}, "top_k"),
    ({"top_k": None}, "top_k"),
    ({"timeout_ms": 0}, "timeout_ms"),
    ({"timeout_ms": 600_001}, "timeout_ms"),
    ({"timeout_ms": 1e300}, "timeout_ms"),
    ({"min_coverage": -0.1}, "min_coverage"),
    ({"min_coverage": 1.5}, "min_coverage"),
    ({"min_coverage": "all"}, "min_coverage"),
    ({"min_coverage": True}, "min_coverage"),
    ({"release": -1}, "release"),
    ({"release": 1, "documents": "live"}, "documents"),
    ({"release": 2**63}, "release"),
    ({"release": "7"}, "release"),
    ({"corpus": ""}, "corpus"),
    ({"corpus": 5}, "corpus"),
    ({"corpus": "c" * 257}, "corpus"),
    ({"filter": "europe"}, "filter"),
    ({"filter": []}, "filter"),
    ({"filter": {"year": {"above": 3}}}, "filter.year.above"),
    ({"filter": {"and": [{"a": 1}, {"year": {"gte": None}}]}}, "filter.and[1].year.gte"),
    ({"filter": {"tags": ["a"]}}, "filter.tags"),
]
SEARCH = [
    *[({**ASK, **wrong}, field) for wrong, field in SHARED],
    ({}, "query"),
    ({"query": None}, "query"),
    ({"query": "a", "vector": [1, 2, 3]}, "vector"),
    ({"queries": ["a"], "vectors": [[1, 2, 3]]}, "vectors"),
    ({"query": "a", "queries": ["a"]}, "queries"),
    ({"query": ""}, "query"),
    ({"query": " \n"}, "query"),
    ({"query": 5}, "query"),
    ({"query": ["a"]}, "query"),
    ({"query": "a" * 8193}, "query"),
    ({"queries": []}, "queries"),
    ({"queries": "a"}, "queries"),
    ({"queries": ["a", ""]}, "queries[1]"),
    ({"queries": ["a", "b" * 8193]}, "queries[1]"),
    ({"queries": ["a"] * 1025}, "queries"),
    ({"queries": ["a"], "embedded": {"model": "m"}}, "embedded.vectors"),
    ({"queries": ["a"], "embedded": {"model": "m", "vectors": "AAA"}}, "embedded.vectors"),
    ({"queries": ["a"], "embedded": {"model": "m", "vectors": "AADAfw=="}}, "embedded.vectors"),
    (
        {"queries": ["a", "b"], "embedded": {"model": "m", "vectors": "AACAPw=="}},
        "embedded.vectors",
    ),
    ({"vector": [1], "embedded": {"model": "m", "vectors": "AACAPw=="}}, "embedded.vectors"),
    ({"vector": []}, "vector"),
    ({"vector": 1.0}, "vector"),
    ({"vector": [1, 2, "3"]}, "vector[2]"),
    ({"vector": [1, None, 3]}, "vector[1]"),
    ({"vector": [1, True, 3]}, "vector[1]"),
    ({"vector": [[1, 2, 3]]}, "vector[0]"),
    ({"vector": [1, 2, 1e39]}, "vector"),
    ({"vector": [1, 2]}, "vector"),
    ({"vectors": []}, "vectors"),
    ({"vectors": [[]]}, "vectors[0]"),
    ({"vectors": [1, 2, 3]}, "vectors[0]"),
    ({"vectors": [[1, 2, 3], [1, 2]]}, "vectors"),
    ({"vectors": [[1, 2, 3], [1, 2, "3"]]}, "vectors[1][2]"),
    ({"vectors": [[1, 2, 3], [1, 2, -1e39]]}, "vectors"),
    ({"vectors": [[1, 2, 3]] * 1025}, "vectors"),
    ({"queries": ["a"] * (HITS_MAX // 1000 + 1), "top_k": 1000}, "top_k"),
    ({**ASK, "fields": "area"}, "fields"),
    ({**ASK, "fields": ["area", 5]}, "fields[1]"),
    ({**ASK, "fields": ["area"] * 257}, "fields"),
    ({**ASK, "corpus": "atlas"}, "corpus"),
    ({**ASK, "topk": 3}, "topk"),
    ({**ASK, "naïve\n" + "x" * 100: 3}, "na\\xefve\\n" + "x" * 51 + "..."),
]
ANSWER = [
    *[({**QUESTION, **wrong}, field) for wrong, field in SHARED],
    ({}, "question"),
    ({"question": None}, "question"),
    ({"question": " "}, "question"),
    ({"question": "a" * 8193}, "question"),
    ({**QUESTION, "max_tokens": 0}, "max_tokens"),
    ({**QUESTION, "max_tokens": 32_769}, "max_tokens"),
    ({**QUESTION, "temperature": -1}, "temperature"),
    ({**QUESTION, "temperature": 2.1}, "temperature"),
    ({**QUESTION, "stream": "yes"}, "stream"),
    ({**QUESTION, "stream": 1}, "stream"),
    ({**QUESTION, "query": "a"}, "query"),
    ({**QUESTION, "truncation": "always"}, "truncation"),
]
CHATS = [
    *[
        ({**CHAT, "raygion": wrong}, f"raygion.{field}")
        for wrong, field in SHARED
        if None not in wrong.values()
    ],
    ({"messages": [USER]}, "model"),
    ({**CHAT, "model": ""}, "model"),
    ({"model": "raygion"}, "messages"),
    ({**CHAT, "messages": []}, "messages"),
    ({**CHAT, "messages": "hello"}, "messages"),
    ({**CHAT, "messages": [{"role": "user"}]}, "messages[0].content"),
    ({**CHAT, "messages": [{"role": "narrator", "content": "a"}]}, "messages[0].role"),
    ({**CHAT, "messages": [{"role": "system"}, USER]}, "messages[0].content"),
    ({**CHAT, "messages": [{"role": "assistant", "content": None}]}, "messages[0].content"),
    ({**CHAT, "messages": [{**USER, "content": " "}]}, "messages[0].content"),
    ({**CHAT, "messages": [{**USER, "content": "a" * 8193}]}, "messages[0].content"),
    ({**CHAT, "messages": [{**USER, "content": "a" * 8000}] * 100}, "messages"),
    ({**CHAT, "messages": [USER] * 2049}, "messages"),
    ({**CHAT, "messages": [{**USER, "tools": [1]}]}, "messages[0].tools"),
    (
        {**CHAT, "messages": [{**USER, "content": [{"type": "image_url", "image_url": "x"}]}]},
        "messages[0].content",
    ),
    ({**CHAT, "n": 2}, "n"),
    ({**CHAT, "top_p": 0}, "top_p"),
    ({**CHAT, "top_p": 1.5}, "top_p"),
    ({**CHAT, "presence_penalty": 2.5}, "presence_penalty"),
    ({**CHAT, "frequency_penalty": -3}, "frequency_penalty"),
    ({**CHAT, "logprobs": True}, "logprobs"),
    ({**CHAT, "tools": [{"type": "function"}]}, "tools"),
    ({**CHAT, "response_format": {"type": "json_object"}}, "response_format"),
    ({**CHAT, "stop": ["a"] * 5}, "stop"),
    ({**CHAT, "stop": 5}, "stop"),
    ({**CHAT, "seed": 2**63}, "seed"),
    ({**CHAT, "max_tokens": 0}, "max_tokens"),
    ({**CHAT, "max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
    ({**CHAT, "stream_options": {"include_usage": True}}, "stream_options"),
    ({**CHAT, "stream": True, "stream_options": {"more": 1}}, "stream_options.more"),
    (
        {**CHAT, "stream": True, "stream_options": {"continuous_usage_stats": True}},
        "stream_options.continuous_usage_stats",
    ),
    ({**CHAT, "function_call": {"name": "f"}}, "function_call"),
    ({**CHAT, "stop_token_ids": [1]}, "stop_token_ids"),
    ({**CHAT, "top_k": 5}, "top_k"),
    ({**CHAT, "truncation": "auto"}, "truncation"),
    ({**CHAT, "raygion": {"truncation": True}}, "raygion.truncation"),
]
TABLE = [
    *[("/v1/search", body, field) for body, field in SEARCH],
    *[("/v1/answer", body, field) for body, field in ANSWER],
    *[("/v1/chat/completions", body, field) for body, field in CHATS],
]


def refusal(reply: httpx.Response) -> dict[str, Any]:
    ErrorReply.model_validate_json(reply.content, strict=True)
    return dict(reply.json()["error"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({**CHAT, "raygion": []}, "raygion: must be an object"),
        ({**CHAT, "messages": ["hello"]}, "messages[0]: must be an object"),
    ],
)
async def test_what_must_be_an_object_is_told_in_words_of_json(
    body: dict[str, Any], message: str
) -> None:
    async with in_process(FakeService()) as client:
        reply = await client.post("/v1/chat/completions", json=body)
    assert (reply.status_code, refusal(reply)["message"]) == (400, message)


@pytest.mark.parametrize(("route", "body", "field"), TABLE)
async def test_bad_input_is_refused_by_name(route: str, body: dict[str, Any], field: str) -> None:
    async with in_process(FakeService()) as client:
        reply = await client.post(route, content=orjson.dumps(body))
    told = refusal(reply)
    assert (reply.status_code, told["code"], told["retryable"]) == (400, "invalid_argument", False)
    assert told["field"] == field
    assert told["message"].startswith(f"{field}: ")
    assert len(told["message"]) < 500


@pytest.mark.parametrize("route", ["/v1/search", "/v1/answer", "/v1/chat/completions"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"query"',
        b"null",
        b"\xff\xfe",
        b'{"query": "\\ud800"}',
        b'{"vector": [NaN, 1, 2]}',
        b'{"vector": [Infinity, 1, 2]}',
        b'{"vector": [1e400, 1, 2]}',
        b"[" * 5000,
        b'{"filter":' * 2000 + b"1" + b"}" * 2000,
        b'{"query": "a", "filter": {"year": {"gte": 1999}, "year": {"lt": 1000}}}',
        b'{"vector": [1, 2, 3], "filter": {"area": {"gt": 1, "gt": 2}}}',
        b'{"query": "a", "top_k": 1, "top_k": 2}',
    ],
)
async def test_what_is_no_json_object_is_refused(route: str, body: bytes) -> None:
    async with in_process(FakeService()) as client:
        reply = await client.post(route, content=body)
    assert (reply.status_code, refusal(reply)["field"]) == (400, "body")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("query", "a" * 8192),
        ("queries", ["a"] * 1024),
        ("vectors", [[1, 2, 3]] * 1024),
    ],
)
async def test_the_longest_allowed_passes(field: str, value: object) -> None:
    async with in_process(FakeService()) as client:
        for top_k in (1, 128):
            reply = await client.post("/v1/search", json={field: value, "top_k": top_k})
            assert reply.status_code == 200


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (SearchBody, {"queries": [1] * 9999}),
        (SearchBody, {"vector": [None] * 9999}),
        (SearchBody, {"vectors": [[None] * 9999] * 999}),
        (SearchBody, {"fields": [[]] * 9999}),
        (SearchBody, {"query": "a", **{f"k{i}": 0 for i in range(9999)}}),
        (ChatBody, {"model": "raygion", "messages": [1] * 9999}),
        (ChatBody, {"model": "raygion", "messages": [{f"k{i}": 0 for i in range(9999)}]}),
        (ChatBody, {**CHAT, "stop": [1] * 9999}),
    ],
)
def test_a_heap_of_wrong_items_makes_one_error(model: type[Body], body: dict[str, Any]) -> None:
    """An error for each item would take seconds and gigabytes."""
    with pytest.raises(ValidationError) as refused:
        model.model_validate(body)
    assert refused.value.error_count() == 1


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)
VECTOR = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=4)
PLAUSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "query": st.text(max_size=20),
    "vector": VECTOR,
    "queries": st.lists(st.text(max_size=5), max_size=3),
    "vectors": st.lists(VECTOR, max_size=3),
    "corpus": st.sampled_from(["factbook", "atlas", ""]),
    "top_k": st.integers(-1, 1002),
    "filter": st.dictionaries(st.sampled_from(["and", "or", "not", "area"]), JSON, max_size=2),
    "fields": st.lists(st.text(max_size=5), max_size=3),
    "timeout_ms": st.integers(0, 600_001),
    "min_coverage": st.floats(-0.5, 1.5),
    "release": st.integers(-1, 9),
}
BODIES = st.fixed_dictionaries(
    {}, optional={key: value | JSON for key, value in PLAUSIBLE.items()}
) | st.dictionaries(st.sampled_from(sorted(PLAUSIBLE)) | st.text(max_size=5), JSON, max_size=4)
APP = app_of(FakeService())


@settings(deadline=None)
@given(body=BODIES.map(orjson.dumps) | JSON.map(orjson.dumps) | st.binary(max_size=60))
def test_no_body_breaks_the_search(body: bytes) -> None:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(APP)
        async with httpx.AsyncClient(transport=transport, base_url="http://region") as client:
            return await client.post("/v1/search", content=body)

    reply = asyncio.run(ask())
    assert reply.status_code in (200, 400)
    if reply.status_code == 400:
        told = refusal(reply)
        assert told["code"] == "invalid_argument"
        assert told["field"]
    else:
        assert {"release", "region", "coverage", "took_ms", "trace_id"} < reply.json().keys()
