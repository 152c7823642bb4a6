"""What callers may demand over HTTP, what they are told, and what is counted of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from cluster.errors import NotYet, Unavailable
from cluster.query.read_consistency import EVENTUAL, ConsistencyLevel, ReadConsistency
from cluster.query.session import SessionToken
from cluster.regions.wire import FLOAT32_TYPE
from deployments.cli.main import app
from tests.support.http_replies import sample
from tests.support.worlds.fake_service import DIMENSION, MADE, FakeService, in_process
from tests.support.worlds.region_servers import serving

TOKEN = SessionToken("store", 3)
SEARCH: dict[str, Any] = {"query": "tea"}
ANSWER: dict[str, Any] = {"question": "Who grows tea?"}
CHAT: dict[str, Any] = {"model": "raygion", "messages": [{"role": "user", "content": "Tea?"}]}

DEMANDS: list[tuple[dict[str, Any], ReadConsistency]] = [
    ({}, EVENTUAL),
    ({"consistency": "strong"}, ReadConsistency(level=ConsistencyLevel.STRONG)),
    ({"consistency": "quorum"}, ReadConsistency(level=ConsistencyLevel.QUORUM)),
    ({"session": TOKEN.encode()}, ReadConsistency(level=ConsistencyLevel.SESSION, session=TOKEN)),
    (
        {"max_staleness_ms": 500},
        ReadConsistency(level=ConsistencyLevel.BOUNDED, max_staleness_ms=500),
    ),
    (
        {"consistency": "strong", "session": TOKEN.encode()},
        ReadConsistency(level=ConsistencyLevel.STRONG, session=TOKEN),
    ),
    ({"release": 1, "session": TOKEN.encode()}, ReadConsistency(session=TOKEN)),
]
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"consistency": "exact"}, "consistency"),
    ({"consistency": 1}, "consistency"),
    ({"consistency": "session"}, "session"),
    ({"session": "no token"}, "session"),
    ({"session": "x" * 8193}, "session"),
    ({"session": 7}, "session"),
    ({"consistency": "eventual", "session": TOKEN.encode()}, "session"),
    ({"consistency": "bounded"}, "max_staleness_ms"),
    ({"consistency": "strong", "max_staleness_ms": 5}, "max_staleness_ms"),
    ({"max_staleness_ms": -1}, "max_staleness_ms"),
    ({"max_staleness_ms": 1.5}, "max_staleness_ms"),
    ({"max_staleness_ms": 2**60}, "max_staleness_ms"),
    ({"release": 1, "consistency": "strong"}, "consistency"),
    ({"release": 1, "session": TOKEN.encode(), "max_staleness_ms": 500}, "max_staleness_ms"),
    ({"release": 1, "session": "no token"}, "session"),
]


@pytest.mark.parametrize(("asked", "demand"), DEMANDS)
async def test_every_interface_takes_the_same_words(
    asked: dict[str, Any], demand: ReadConsistency
) -> None:
    service = FakeService()
    async with in_process(service) as client:
        assert (await client.post("/v1/search", json={**SEARCH, **asked})).is_success
        assert (await client.post("/v1/answer", json={**ANSWER, **asked})).is_success
        chat = {**CHAT, "raygion": asked}
        assert (await client.post("/v1/chat/completions", json=chat)).is_success
        vectors = np.zeros(DIMENSION, dtype=np.float32).tobytes()
        binary = await client.post(
            "/v1/search", params=asked, content=vectors, headers={"content-type": FLOAT32_TYPE}
        )
        assert binary.is_success
    assert [r.consistency for r in (*service.searches, *service.answers)] == [demand] * 4


@pytest.mark.parametrize(("asked", "field"), WRONG)
async def test_demands_that_make_no_sense_are_refused(asked: dict[str, Any], field: str) -> None:
    service = FakeService()
    posts = [
        ("/v1/search", {**SEARCH, **asked}, field),
        ("/v1/answer", {**ANSWER, **asked}, field),
        ("/v1/chat/completions", {**CHAT, "raygion": asked}, f"raygion.{field}"),
    ]
    async with in_process(service) as client:
        for route, body, path in posts:
            reply = await client.post(route, json=body)
            error = reply.json()["error"]
            assert (reply.status_code, error["code"], error["field"]) == (
                400,
                "invalid_argument",
                path,
            )
    assert (service.searches, service.answers) == ([], [])


async def test_every_reply_says_where_and_how_current() -> None:
    async with in_process(FakeService()) as client:
        for reply in (
            (await client.post("/v1/search", json=SEARCH)).json(),
            (await client.post("/v1/answer", json=ANSWER)).json(),
            (await client.post("/v1/chat/completions", json=CHAT)).json()["raygion"],
        ):
            assert {name: reply[name] for name in MADE} == MADE
            assert reply["region"] == "north"


async def test_what_cannot_be_met_is_a_typed_error_that_is_counted() -> None:
    service = FakeService()
    async with in_process(service) as client:
        service.search_error = NotYet("this region does not serve release 2 yet")
        reply = await client.post("/v1/search", json={**SEARCH, "consistency": "strong"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "not_yet")
        assert reply.json()["error"]["retryable"]
        service.answer_error = Unavailable("the store does not answer")
        for stream in (False, True):
            body = {**ANSWER, "stream": stream, "max_staleness_ms": 500}
            assert (await client.post("/v1/answer", json=body)).status_code == 503
        metrics = (await client.get("/metrics")).text
    assert sample(metrics, "raygion_refused_total", consistency="strong") == 1
    assert sample(metrics, "raygion_refused_total", consistency="bounded") == 2


async def test_answers_of_other_regions_and_staleness_are_counted() -> None:
    async with in_process(FakeService()) as client:
        await client.post("/v1/search", json=SEARCH)
        await client.post("/v1/answer", json={**ANSWER, "stream": True})
        metrics = (await client.get("/metrics")).text
    assert sample(metrics, "raygion_forwarded_total", consistency="eventual") == 2
    assert sample(metrics, "raygion_staleness_seconds") == 0.14


async def test_the_commands_have_the_same_words(tmp_path: Path) -> None:
    service = FakeService()
    async with serving(service) as url:
        file = tmp_path / "regions.yaml"
        file.write_text(yaml.safe_dump({"regions": {"a": {"url": url}, "b": {"url": url}}}))
        runner = CliRunner()
        for command in (["search", "tea"], ["ask", "Who grows tea?", "--json"]):
            for asked in (
                ["--consistency", "strong", "--session", TOKEN.encode()],
                ["--max-staleness-ms", "500"],
            ):
                words = [*command, *asked, "--config", str(file)]
                told = await asyncio.to_thread(runner.invoke, app, words)
                assert told.exit_code == 0, told.output
    strong = ReadConsistency(level=ConsistencyLevel.STRONG, session=TOKEN)
    bounded = ReadConsistency(level=ConsistencyLevel.BOUNDED, max_staleness_ms=500)
    assert [r.consistency for r in (*service.searches, *service.answers)] == [strong, bounded] * 2
