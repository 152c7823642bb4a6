"""Which web pages a browser lets ask the interface."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from cluster.config import Settings
from tests.support.worlds.fake_service import FakeService, in_process

PAGE, OTHER = "https://chat.example.org", "https://other.example.org"
CHAT = {"model": "raygion", "messages": [{"role": "user", "content": "Why?"}]}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHAT),
    ("/v1/search", {"query": "copper"}),
]


def asking(origin: str) -> dict[str, str]:
    """What a browser sends before a page's own request: without the page's key."""
    return {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }


@pytest.mark.parametrize("allowed", [(PAGE,), (OTHER + ":1", PAGE), ("*",)])
@pytest.mark.parametrize(("route", "body"), REQUESTS)
async def test_a_page_that_is_let_in_asks_and_reads_the_answer(
    allowed: tuple[str, ...], route: str, body: dict[str, Any]
) -> None:
    async with in_process(FakeService(), api_keys=("k",), cors_origins=allowed) as client:
        before = await client.options(route, headers=asking(PAGE))
        keyed = {"origin": PAGE, "authorization": "Bearer k"}
        reply = await client.post(route, content=orjson.dumps(body), headers=keyed)
        unkeyed = await client.post(route, content=orjson.dumps(body), headers={"origin": PAGE})
    assert before.status_code == 200
    assert "authorization" in before.headers["access-control-allow-headers"]
    # An error, too, is for the page to read.
    assert (reply.status_code, unkeyed.status_code) == (200, 401)
    for told in (before, reply, unkeyed):
        assert told.headers["access-control-allow-origin"] in (PAGE, "*")


@pytest.mark.parametrize(("allowed", "status"), [((), 405), ((OTHER,), 400)])
@pytest.mark.parametrize("route", [route for route, _ in REQUESTS])
async def test_other_pages_are_not_let_in(
    allowed: tuple[str, ...], status: int, route: str
) -> None:
    async with in_process(FakeService(), cors_origins=allowed) as client:
        before = await client.options(route, headers=asking(PAGE))
        reply = await client.post(route, content=b"{}", headers={"origin": PAGE})
    assert before.status_code == status
    for told in (before, reply):
        assert "access-control-allow-origin" not in told.headers


@pytest.mark.parametrize("origin", ["chat.example.org", "https://a.example/", "null", "file://"])
def test_what_no_browser_sends_as_an_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="cors_origins"):
        Settings.model_validate({"regions": {"a": {"http": {"cors_origins": [origin]}}}})
