"""The binary form of a search: the same request and the same hits as in JSON, as arrays."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from cluster.query.filters import parse_filter
from cluster.query.search import SearchEffort
from cluster.regions.wire import ARROW_TYPE, FLOAT32_TYPE
from tests.support.worlds.fake_service import DIMENSION, HIT, MADE, FakeService, in_process

BINARY = {"content-type": FLOAT32_TYPE}
ARROW = {"accept": ARROW_TYPE}
VECTORS = np.arange(2 * DIMENSION, dtype=np.float32)


async def test_raw_vectors_and_the_url_make_the_same_request_as_json() -> None:
    service = FakeService()
    asked = {
        "corpus": "factbook",
        "top_k": "3",
        "fields": "area,region",
        "filter": '{"area": {"gt": 3}}',
        "min_coverage": "0.5",
        "timeout_ms": "250",
        "release": "7",
        "ef_search": "99",
        "recall": "exact",
    }
    async with in_process(service) as client:
        reply = await client.post(
            "/v1/search", params=asked, content=VECTORS.tobytes(), headers=BINARY
        )
    assert reply.status_code == 200
    assert [len(one["hits"]) for one in reply.json()["results"]] == [1, 1]
    (request,) = service.searches
    assert request.vectors is not None
    assert request.vectors.tolist() == VECTORS.tolist()
    assert (request.corpus, request.top_k, request.fields) == ("factbook", 3, ("area", "region"))
    assert request.filter == parse_filter({"area": {"gt": 3}})
    assert (request.min_coverage, request.timeout_s, request.release) == (0.5, 0.25, 7)
    assert request.effort == SearchEffort(ef_search=99, exact=True)


@pytest.mark.parametrize("accept", [f"{ARROW_TYPE};q=0.9, */*", ARROW_TYPE.upper()])
async def test_media_types_are_read_as_http_writes_them(accept: str) -> None:
    headers = {"content-type": f"{FLOAT32_TYPE}; v=1", "accept": accept}
    async with in_process(FakeService()) as client:
        reply = await client.post("/v1/search", content=VECTORS.tobytes(), headers=headers)
    assert reply.headers["content-type"] == ARROW_TYPE


@pytest.mark.parametrize("form", ["binary", "json"])
async def test_an_arrow_reply_holds_what_was_found(form: str) -> None:
    async with in_process(FakeService()) as client:
        if form == "binary":
            body = {"content": VECTORS.tobytes(), "headers": {**BINARY, **ARROW}}
        else:
            vectors = VECTORS.reshape(-1, DIMENSION).tolist()
            body = {"json": {"vectors": vectors}, "headers": ARROW}
        reply = await client.post("/v1/search", **body)
    assert reply.headers["content-type"] == ARROW_TYPE
    table = pa.ipc.open_stream(reply.content).read_all()
    assert table.to_pylist() == [
        {"query": query, "id": HIT.id, "score": HIT.score} for query in range(2)
    ]
    facts = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert facts == {
        "release": "7",
        "region": "north",
        "coverage": "1.0",
        "took_ms": "1.235",
        "trace_id": reply.headers["x-trace-id"],
        "queries": "2",
        **{name: str(value) for name, value in MADE.items()},
    }


@pytest.mark.parametrize(
    ("url", "body", "field"),
    [
        ("", b"", "body"),
        ("", b"abc", "body"),
        ("?top_k=0", VECTORS.tobytes(), "top_k"),
        ("?top_k=many", VECTORS.tobytes(), "top_k"),
        ("?top_k=1&top_k=2", VECTORS.tobytes(), "top_k"),
        ("?query=tea", VECTORS.tobytes(), "query"),
        ("?filter={", VECTORS.tobytes(), "filter"),
        ('?filter={"area":{"gt":1,"gt":2}}', VECTORS.tobytes(), "filter"),
        ("?filter=[1]", VECTORS.tobytes(), "filter"),
        ("?recall=best", VECTORS.tobytes(), "recall"),
    ],
)
async def test_what_does_not_fit_is_refused_by_name(url: str, body: bytes, field: str) -> None:
    service = FakeService()
    async with in_process(service) as client:
        reply = await client.post(f"/v1/search{url}", content=body, headers=BINARY)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["code"], error["field"]) == ("invalid_argument", field)
    assert service.searches == []
