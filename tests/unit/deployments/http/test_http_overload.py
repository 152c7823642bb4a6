"""More than a gateway has places for is refused at once, and what matters then gets through."""

from __future__ import annotations

import asyncio

from tests.support.http_replies import error_of, sample
from tests.support.waiting import until
from tests.support.worlds.fake_service import ASK, FakeService, in_process


async def test_beyond_the_bound_requests_are_refused_at_once() -> None:
    service = FakeService()
    service.gate.clear()
    async with in_process(service, in_flight_max=2) as client, asyncio.TaskGroup() as group:
        held = [group.create_task(client.post("/v1/search", json=ASK)) for _ in range(2)]
        await until(lambda: service.waiting == 2)
        refused = await client.post("/v1/search", json=ASK)
        assert (refused.status_code, error_of(refused)["code"]) == (503, "overloaded")
        assert refused.headers["retry-after"] == "1"
        for path in ("/healthz", "/readyz"):
            assert (await client.get(path)).status_code == 200
        metrics = (await client.get("/metrics")).text
        assert sample(metrics, "raygion_http_requests_in_flight") == 2
        service.gate.set()
        assert [(await task).status_code for task in held] == [200, 200]
        assert (await client.post("/v1/search", json=ASK)).status_code == 200


async def test_answers_have_a_bound_of_their_own() -> None:
    service = FakeService()
    service.gate.clear()
    body = {"question": "tea?"}
    async with (
        in_process(service, answers_in_flight_max=1) as client,
        asyncio.TaskGroup() as group,
    ):
        held = group.create_task(client.post("/v1/answer", json=body))
        await service.generating.wait()
        for route in ("/v1/answer", "/v1/chat/completions"):
            refused = await client.post(route, json=body)
            assert (refused.status_code, error_of(refused)["code"]) == (503, "overloaded")
        service.gate.set()
        assert (await client.post("/v1/search", json=ASK)).status_code == 200
        assert (await held).status_code == 200
