"""What hits hold is the caller's choice: everything, some of it, or ids and scores alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deployments.http.schemas.replies import BatchSearchReply, SearchReply
from tests.support.worlds.fake_service import DIMENSION, HIT, FakeService, in_process

WHOLE = {"id": HIT.id, "score": HIT.score, "text": HIT.text, "metadata": HIT.metadata}


@pytest.mark.parametrize("include", [["text", "metadata"], ["metadata", "text"], ["text"], []])
async def test_hits_hold_what_is_asked_for(include: list[str]) -> None:
    service = FakeService()
    wanted = {name: WHOLE[name] for name in ("id", "score", *include)}
    async with in_process(service) as client:
        one = await client.post("/v1/search", json={"query": "a", "include": include})
        two = await client.post("/v1/search", json={"queries": ["a", "b"], "include": include})
    assert one.json()["hits"] == [wanted]
    assert two.json()["results"] == [{"hits": [wanted]}] * 2
    SearchReply.model_validate_json(one.content, strict=True)
    BatchSearchReply.model_validate_json(two.content, strict=True)
    assert {asked.passages for asked in service.searches} == {bool(include)}


async def test_all_of_a_hit_comes_unless_something_is_asked_for() -> None:
    async with in_process(FakeService()) as client:
        for body in ({"query": "a"}, {"query": "a", "include": None}):
            reply = await client.post("/v1/search", json=body)
            assert reply.json()["hits"] == [WHOLE]


async def test_metadata_that_nobody_wants_are_not_fetched() -> None:
    service = FakeService()
    body = {"query": "a", "fields": ["area"], "include": ["text"]}
    async with in_process(service) as client:
        assert (await client.post("/v1/search", json=body)).status_code == 200
    assert service.searches[0].fields == ()


@pytest.mark.parametrize(
    ("url", "names"), [("text", {"text"}), ("", set()), ("text,metadata", {"text", "metadata"})]
)
async def test_a_binary_request_names_them_in_the_url(url: str, names: set[str]) -> None:
    body = np.zeros(DIMENSION, np.float32).tobytes()
    headers = {"content-type": "application/vnd.raygion.float32"}
    async with in_process(FakeService()) as client:
        reply = await client.post(f"/v1/search?include={url}", content=body, headers=headers)
    (found,) = reply.json()["results"]
    assert {frozenset(hit) for hit in found["hits"]} == {frozenset({"id", "score"} | names)}


@pytest.mark.parametrize("include", [["vector"], "text", ["text", "text", "text"], [1], {}])
async def test_what_hits_do_not_have_is_refused_by_name(include: Any) -> None:
    async with in_process(FakeService()) as client:
        reply = await client.post("/v1/search", json={"query": "a", "include": include})
    assert reply.status_code == 400
    assert reply.json()["error"]["field"].startswith("include")
