"""More than a region takes: refused at once with a typed error, the rest is answered, and nothing
stays behind. How fast all that is, `make chaos` measures.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import orjson
import pytest

from actors.runtime import names
from bench.load.client import http_request
from tests.chaos.open_load import OpenLoad, run_open_load
from tests.chaos.overload import in_flight
from tests.support.regions.search_region import (
    CORPUS,
    TOP_K,
    Reply,
    SearchRegion,
    replica_status,
)
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

FIRST_SHARD = names.replica(CORPUS, 0, 0)
TIMEOUT_MS = 60_000


@pytest.fixture
def idle(region: SearchRegion) -> SearchRegion:
    wait_until(region.is_whole, "a whole region")
    wait_until_in_flight(region, 0)
    return region


def places(region: SearchRegion) -> int:
    """Requests that the region takes at once."""
    return region.installation.region_settings.http.in_flight_max


def wait_until_in_flight(region: SearchRegion, number: int) -> None:
    wait_until(lambda: in_flight(region) == number, f"{number} requests in flight", 30)


@contextmanager
def stuck(region: SearchRegion) -> Iterator[Callable[[], None]]:
    """No search can finish while the block runs, or until what it yields is called."""
    pid = region.run(replica_status, FIRST_SHARD).pid

    def go_on() -> None:
        os.kill(pid, signal.SIGCONT)

    os.kill(pid, signal.SIGSTOP)
    try:
        yield go_on
    finally:
        go_on()


@contextmanager
def all_places_taken(region: SearchRegion) -> Iterator[list[Future[Reply]]]:
    def ask(query: int) -> Reply:
        with region.client() as client:
            return region.search(client, query, timeout_ms=TIMEOUT_MS)

    with ThreadPoolExecutor(places(region)) as threads:
        waiting = []
        for query in range(places(region)):
            waiting.append(threads.submit(ask, query))
            wait_until_in_flight(region, len(waiting))
        yield waiting


def a_search(region: SearchRegion, query: int) -> bytes:
    body = {"vector": region.queries[query].tolist(), "top_k": TOP_K, "timeout_ms": TIMEOUT_MS}
    return http_request("POST", "/v1/search", orjson.dumps(body), "Content-Type: application/json")


def assert_is_refusal(reply: httpx.Response) -> None:
    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) >= 1
    error = reply.json()["error"]
    assert (error["code"], error["retryable"]) == ("overloaded", True)
    assert len(error["trace_id"]) == 32
    assert reply.headers["x-trace-id"] == error["trace_id"]


def assert_answers(region: SearchRegion) -> None:
    with region.client() as client:
        assert region.is_right(region.search(client, 0), region.letters())


def test_when_all_places_are_taken_the_next_is_refused_and_those_are_answered(
    idle: SearchRegion,
) -> None:
    with stuck(idle) as go_on, all_places_taken(idle) as waiting, idle.client() as client:
        for path in ("/v1/search", "/v1/answer", "/v1/chat/completions"):
            assert_is_refusal(client.post(path, json={}))
        for path in ("/healthz", "/readyz", "/metrics"):
            assert client.get(path).is_success
        assert not any(one.done() for one in waiting)
        go_on()
        replies = [one.result() for one in waiting]
    letters = idle.letters()
    assert [reply.error for reply in replies] == [""] * places(idle)
    assert all(idle.is_right(reply, letters) for reply in replies)
    assert_answers(idle)


def test_clients_that_leave_take_their_work_along(idle: SearchRegion) -> None:
    endpoint = idle.installation.region_settings.http
    with stuck(idle):
        with ExitStack() as connections:
            for number in range(places(idle)):
                client = socket.create_connection((endpoint.host, endpoint.port))
                connections.enter_context(client)
                client.sendall(a_search(idle, number))
                wait_until_in_flight(idle, number + 1)
        wait_until_in_flight(idle, 0)
    wait_until(idle.is_whole, "all replicas serving")
    assert idle.run(replica_status, FIRST_SHARD).waiting == 0
    assert_answers(idle)


def test_a_burst_is_answered_or_refused_and_leaves_nothing(idle: SearchRegion) -> None:
    endpoint = idle.installation.region_settings.http
    requests = [a_search(idle, query) for query in range(len(idle.queries))]
    report = run_open_load(
        OpenLoad(
            host=endpoint.host,
            port=endpoint.port,
            requests=requests,
            rate_per_s=3_000.0,
            duration_s=1.0,
            connections_max=400,
        )
    )
    answered, refused = report.with_status(200), report.with_status(503)
    assert answered
    assert refused
    assert len(answered) + len(refused) == len(report.answered)
    assert all(one.has_retry_after for one in refused)
    letters = idle.letters()
    for one in (one for one in answered if one.body):
        said = json.loads(one.body)
        hits = tuple(hit["id"] for hit in said["hits"])
        assert hits == idle.vectors[letters[said["release"]]].expected[one.request]
    wait_until_in_flight(idle, 0)
    assert_answers(idle)
