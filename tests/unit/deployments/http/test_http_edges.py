"""Requests that other programs send: each is taken, or refused so that one knows why."""

from __future__ import annotations

import gzip
from typing import Any

import httpx
import orjson
import pytest

from deployments.http.settings import HttpSettings
from tests.support.http_replies import error_of
from tests.support.worlds.fake_service import MODEL, FakeService, app_of, in_process, on_loopback

BODIES = {
    "/v1/search": {"query": "copper", "top_k": 1},
    "/v1/answer": {"question": "Which countries mine copper?"},
    "/v1/chat/completions": {
        "model": "raygion",
        "messages": [{"role": "user", "content": "Which countries mine copper?"}],
    },
}
VECTOR = {"vector": [0.5, 0.25, 0.0], "top_k": 1}


@pytest.mark.parametrize("route", BODIES)
@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "br", "identity, gzip"])
async def test_a_packed_body_is_refused_as_what_it_is(route: str, encoding: str) -> None:
    body = gzip.compress(orjson.dumps(BODIES[route]))
    service = FakeService()
    async with in_process(service) as client:
        reply = await client.post(route, content=body, headers={"content-encoding": encoding})
    assert (reply.status_code, error_of(reply)["code"]) == (415, "unsupported_media")
    assert "content-encoding" in error_of(reply)["message"]
    assert not service.searches
    assert not service.answers


@pytest.mark.parametrize("route", BODIES)
async def test_a_body_that_is_said_to_be_packed_by_a_second_header_is_refused(route: str) -> None:
    headers = [("content-encoding", "identity"), ("content-encoding", "gzip")]
    async with in_process(FakeService()) as client:
        reply = await client.post(route, content=b"{}", headers=headers)
    assert reply.status_code == 415


@pytest.mark.parametrize("route", BODIES)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1", "gzip"])
async def test_a_body_that_is_not_in_utf_8_is_told_so(route: str, encoding: str) -> None:
    text = orjson.dumps(BODIES[route]).decode().replace("mine copper", "m\u00e9")
    body = gzip.compress(text.encode()) if encoding == "gzip" else text.encode(encoding)
    if route == "/v1/search":
        body = body.replace(b"copper", b"caf\xe9")
    async with in_process(FakeService()) as client:
        reply = await client.post(route, content=body)
    assert (reply.status_code, error_of(reply)["field"]) == (400, "body")
    assert "UTF-8" in error_of(reply)["message"]


@pytest.mark.parametrize("route", BODIES)
async def test_a_body_that_says_that_it_is_not_packed_is_read(route: str) -> None:
    body = orjson.dumps(BODIES[route])
    async with in_process(FakeService()) as client:
        reply = await client.post(route, content=body, headers={"content-encoding": "Identity"})
    assert reply.status_code == 200


@pytest.mark.parametrize(("route", "body"), [*BODIES.items(), ("/v1/search", VECTOR)])
async def test_a_byte_order_mark_is_skipped(route: str, body: dict[str, Any]) -> None:
    mark = b"\xef\xbb\xbf"
    async with in_process(FakeService()) as client:
        assert (await client.post(route, content=mark + orjson.dumps(body))).status_code == 200
        twice = await client.post(route, content=mark + mark + orjson.dumps(body))
        alone = await client.post(route, content=mark)
    assert (error_of(twice)["field"], error_of(alone)["field"]) == ("body", "body")


async def test_each_model_that_is_listed_is_given_by_its_name() -> None:
    async with in_process(FakeService()) as client:
        listed = (await client.get("/v1/models")).json()["data"]
        assert [model["id"] for model in listed] == ["raygion", MODEL]
        for model in listed:
            assert (await client.get(f"/v1/models/{model['id']}")).json() == model
        for name in ("gpt-4o", "a/b", "raygion/", "%00"):
            reply = await client.get(f"/v1/models/{name}")
            assert (reply.status_code, error_of(reply)["code"]) == (404, "not_found")
            assert f"there are: raygion, {MODEL}" in error_of(reply)["message"]


@pytest.mark.parametrize(
    ("route", "instead"),
    [
        ("/v1/responses", "/v1/chat/completions"),
        ("/v1/nonsense", "/openapi.json"),
    ],
)
async def test_a_route_that_is_missing_says_what_to_use(route: str, instead: str) -> None:
    async with in_process(FakeService()) as client:
        reply = await client.post(route, json={"model": "raygion"})
    assert (reply.status_code, error_of(reply)["code"]) == (404, "not_found")
    assert instead in error_of(reply)["message"]


@pytest.mark.parametrize("route", ["/v1/search", "/v1/answer", "/v1/chat/completions"])
async def test_a_line_break_does_not_lead_past_the_places_of_a_route(route: str) -> None:
    async with in_process(FakeService()) as client:
        reply = await client.post(f"{route}%0A", json=BODIES[route])
    assert (reply.status_code, error_of(reply)["code"]) == (404, "not_found")


async def test_head_tells_what_get_would() -> None:
    async with (
        on_loopback(app_of(FakeService(), HttpSettings(api_keys=("k",)))) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        headers = {"authorization": "Bearer k"}
        for route in ("/healthz", "/readyz", "/v1/models", "/metrics", "/openapi.json"):
            asked = await client.head(route, headers=headers)
            assert (asked.status_code, asked.content) == (200, b"")
            assert (
                asked.headers["content-type"]
                == ((await client.get(route, headers=headers)).headers["content-type"])
            )
        assert (await client.head("/v1/models")).status_code == 401
        assert (await client.head("/v1/search", headers=headers)).headers["allow"] == "POST"
