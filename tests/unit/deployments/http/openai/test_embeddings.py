"""`/v1/embeddings`, by OpenAI's own Python client and by hand."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from typing import Any

import httpx
import numpy as np
import openai
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI

from cluster import errors
from cluster.errors import InvalidArgument, RaygionError
from deployments.http.openai.embeddings import EmbeddingsReply, parse_embeddings
from tests.support.waiting import until
from tests.support.worlds.fake_service import EMBEDDER, MODEL, FakeService, in_process

ROUTE = "/v1/embeddings"
ASKED: dict[str, Any] = {"model": "raygion", "input": ["tea", "salt lakes"]}
VECTORS = [[3.0, 0.5, -1.0], [10.0, 0.5, -1.0]]


async def asked(service: FakeService, body: dict[str, Any]) -> httpx.Response:
    async with in_process(service) as client:
        return await client.post(ROUTE, json=body)


async def test_the_client_embeds(service: FakeService, client: AsyncOpenAI) -> None:
    # The client asks for base64 unless told otherwise, and unpacks it.
    made = await client.embeddings.create(model="raygion/factbook", input=ASKED["input"])
    assert [(each.index, each.embedding) for each in made.data] == list(enumerate(VECTORS))
    assert made.model == "raygion/factbook"
    assert (made.usage.prompt_tokens, made.usage.total_tokens) == (3, 3)
    source = (made.model_extra or {})["raygion"]
    assert (source["release"], source["region"], source["embedder"]) == (7, "north", EMBEDDER)
    (request,) = service.searches
    assert (request.queries, request.corpus) == (("tea", "salt lakes"), "factbook")


async def test_one_text_and_its_options(service: FakeService, client: AsyncOpenAI) -> None:
    made = await client.embeddings.create(
        model="raygion",
        input="tea",
        encoding_format="float",
        dimensions=3,
        user="somebody",
        extra_body={"raygion": {"release": 5, "timeout_ms": 70}},
    )
    assert made.data[0].embedding == VECTORS[0]
    (request,) = service.searches
    assert (request.queries, request.corpus, request.user) == (("tea",), None, "somebody")
    assert (request.release, request.timeout_s) == (5, 0.07)


async def test_numbers_and_base64_are_the_same_vectors(service: FakeService) -> None:
    reply = (await asked(service, ASKED)).json()
    assert [each["embedding"] for each in reply["data"]] == VECTORS
    packed = (await asked(service, {**ASKED, "encoding_format": "base64"})).json()
    for each, vector in zip(packed["data"], VECTORS, strict=True):
        found = np.frombuffer(base64.b64decode(each["embedding"]), dtype="<f4")
        assert found.tolist() == vector
    for form in (reply, packed):
        EmbeddingsReply.model_validate(form, strict=True)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"input": None}, "input"),
        ({"input": ""}, "input[0]"),
        ({"input": []}, "input"),
        ({"input": ["a", " \n"]}, "input[1]"),
        ({"input": ["a"] * 1025}, "input"),
        ({"input": "a" * 8193}, "input[0]"),
        ({"input": [1, 2, 3]}, "input"),
        ({"input": [[1, 2], [3]]}, "input"),
        ({"input": ["a", 2]}, "input[1]"),
        ({"input": {"a": 1}}, "input"),
        ({"dimensions": 4}, "dimensions"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"truncate": True}, "truncate"),
        ({"raygion": {"top_k": 3}}, "raygion.top_k"),
        ({"raygion": {"timeout_ms": 0}}, "raygion.timeout_ms"),
        ({"model": None}, "model"),
    ],
)
async def test_a_wrong_request_is_refused_by_name(wrong: dict[str, Any], field: str) -> None:
    reply = await asked(FakeService(), {**ASKED, **wrong})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)


async def test_tokens_are_refused_with_the_way_out() -> None:
    reply = await asked(FakeService(), {**ASKED, "input": [[1, 2], [3]]})
    assert "check_embedding_ctx_length=False" in reply.json()["error"]["message"]


@pytest.mark.parametrize("model", ["text-embedding-3-small", MODEL, "raygion/", "raygionx"])
async def test_other_models_embed_nothing(client: AsyncOpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError, match="there are: raygion, and raygion/NAME"):
        await client.embeddings.create(model=model, input="tea")


@pytest.mark.parametrize(
    ("error", "status", "field"),
    [
        (InvalidArgument("is unknown", "corpus"), 400, "model"),
        (InvalidArgument("a query is empty", "query"), 400, "input"),
        (InvalidArgument("is unknown", "release"), 400, "raygion.release"),
        (InvalidArgument("there is no embedder", "model"), 400, "model"),
        (errors.NotFound("release 5 is not held"), 404, None),
        (errors.Overloaded("full"), 503, None),
        (errors.DeadlineExceeded("late"), 504, None),
        (ValueError("/secret/path"), 500, None),
    ],
)
async def test_errors_have_the_error_body(
    service: FakeService, error: Exception, status: int, field: str | None
) -> None:
    service.search_error = error
    reply = await asked(service, ASKED)
    told = reply.json()["error"]
    assert (reply.status_code, told["param"]) == (status, field)
    if isinstance(error, RaygionError):
        assert (told["code"], error.message in told["message"]) == (error.code, True)
    assert "secret" not in reply.text


async def test_embeddings_are_admitted_and_counted_as_searches_are(service: FakeService) -> None:
    service.gate.clear()
    async with in_process(service, in_flight_max=1, api_keys=("k",)) as client:
        assert (await client.post(ROUTE, json=ASKED)).status_code == 401
        client.headers["authorization"] = "Bearer k"

        first = asyncio.create_task(client.post(ROUTE, json=ASKED))
        await until(lambda: service.waiting)
        refused = await client.post(ROUTE, json=ASKED)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        service.gate.set()
        reply = await first
        metrics = (await client.get("/metrics")).text
    assert reply.status_code == 200
    assert reply.headers["x-trace-id"] == reply.json()["raygion"]["trace_id"]
    for status in (200, 401, 503):
        assert f'raygion_http_requests_total{{route="{ROUTE}",status="{status}"}} 1.0' in metrics


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("model", "input", "dimensions"), JSON)))
def test_whatever_is_sent_is_taken_or_refused_with_a_typed_error(body: dict[str, Any]) -> None:
    try:
        encoded = orjson.dumps(body)
    except (TypeError, ValueError):
        return
    with contextlib.suppress(InvalidArgument, errors.NotFound):
        assert parse_embeddings(encoded).request.queries
