"""More than a region can do: three times its measured capacity, from an open loop."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import httpx
import orjson

from bench.load.client import Load, LoadGenerator, http_request, quantile_of, run_load
from tests.chaos.open_load import Answered, OpenLoad, run_open_load
from tests.support.regions.search_region import CORPUS, TOP_K, SearchRegion
from tests.support.waiting import wait_until

OVERLOAD = "overload"
_CLIENTS = (64, 128, 192)
_FACTOR = 3.0
_CONNECTIONS = 1024
_DURATION_S = 6.0
_WINDOW_S = 3.0
_REFUSED = 503
_LEAVING = 200
_IN_FLIGHT = re.compile(r"^raygion_http_requests_in_flight (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadReport:
    capacity_per_s: float
    clients: int
    """In a closed loop, where the capacity was measured."""
    factor: float
    offered_per_s: float
    duration_s: float
    goodput_per_s: float
    """Answers within the time of the load."""
    answered_p50_s: float
    answered_p99_s: float
    judged: int
    wrong: int
    refused: int
    refused_without_hint: int
    refused_p50_s: float
    refused_p99_s: float
    broken: int
    unsent: int
    recovered_s: float
    """After the load, until three searches in a row took no longer than before it."""
    left: int
    left_s: float
    """How long requests stay in flight whose clients have gone."""

    @property
    def goodput_share(self) -> float:
        return self.goodput_per_s / self.capacity_per_s


def measure_overload(region: SearchRegion) -> OverloadReport:
    requests = [
        http_request(
            "POST",
            "/v1/search",
            orjson.dumps({"corpus": CORPUS, "vector": query.tolist(), "top_k": TOP_K}),
            "Content-Type: application/json",
        )
        for query in region.queries
    ]
    endpoint = region.installation.region_settings.http
    with LoadGenerator() as generator:
        generator.run(_take_what_is_left)
        capacity_per_s, clients = 0.0, 0
        for number in _CLIENTS:
            load = Load(
                host=endpoint.host,
                port=endpoint.port,
                requests=requests,
                clients=number,
                warm_up_s=1.0,
                window_s=_WINDOW_S,
            )
            per_s = generator.run(run_load, load).requests_per_s
            if per_s > capacity_per_s:
                capacity_per_s, clients = per_s, number
        usual_s = _slowest_of_some(region)
        burst = OpenLoad(
            host=endpoint.host,
            port=endpoint.port,
            requests=requests,
            rate_per_s=_FACTOR * capacity_per_s,
            duration_s=_DURATION_S,
            connections=_CONNECTIONS,
        )
        report = generator.run(run_open_load, burst)
    recovered_s = _until_as_quick_as(region, usual_s, report.ended_s)
    good, refused = report.with_status(200), report.with_status(_REFUSED)
    in_time = [one for one in good if one.due_s + one.took_s <= _DURATION_S]
    judged = [one for one in good if one.body]
    return OverloadReport(
        capacity_per_s=capacity_per_s,
        clients=clients,
        factor=_FACTOR,
        offered_per_s=burst.rate_per_s,
        duration_s=_DURATION_S,
        goodput_per_s=len(in_time) / _DURATION_S,
        answered_p50_s=_quantile(good, 0.5),
        answered_p99_s=_quantile(good, 0.99),
        judged=len(judged),
        wrong=sum(not _is_right(region, one) for one in judged),
        refused=len(refused),
        refused_without_hint=sum(not one.has_retry_after for one in refused),
        refused_p50_s=_quantile(refused, 0.5),
        refused_p99_s=_quantile(refused, 0.99),
        broken=len(report.answered) - len(good) - len(refused),
        unsent=report.unsent,
        recovered_s=recovered_s,
        left=_LEAVING,
        left_s=_clients_leave(region, requests),
    )


def _take_what_is_left() -> None:
    """Clients are on other machines: here they take the time that the region leaves."""
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.nice(10)


def in_flight(region: SearchRegion) -> int:
    """Requests that a gateway works on, by its own account."""
    page = httpx.get(f"{region.installation.url}/metrics", timeout=10, trust_env=False)
    found = _IN_FLIGHT.search(page.text)
    assert found is not None, page.text[:200]
    return int(float(found[1]))


def _quantile(answered: list[Answered], quantile: float) -> float:
    return quantile_of(sorted(one.took_s for one in answered), quantile) if answered else 0.0


def _is_right(region: SearchRegion, one: Answered) -> bool:
    ids = tuple(hit["id"] for hit in orjson.loads(one.body)["hits"])
    return ids == region.vectors["a"].expected[one.request]


def _slowest_of_some(region: SearchRegion) -> float:
    with region.client() as client:
        return max(region.search(client, n % len(region.queries)).took_s for n in range(50))


def _until_as_quick_as(region: SearchRegion, usual_s: float, ended_s: float) -> float:
    """Seconds from the end of the load to the first of three searches as quick as before it."""
    quick = 0
    with region.client() as client:
        while quick < 3:
            assert time.monotonic() < ended_s + 60, "the region does not recover"
            began_s = time.monotonic()
            reply = region.search(client, 0)
            quick = quick + 1 if not reply.error and reply.took_s <= usual_s else 0
            if quick == 1:
                first_s = began_s
    return max(0.0, first_s - ended_s)


def _clients_leave(region: SearchRegion, requests: Sequence[bytes]) -> float:
    """Clients that ask and hang up at once; the seconds until nothing is in flight any more."""
    endpoint = region.installation.region_settings.http
    for request in islice(cycle(requests), _LEAVING):
        with socket.create_connection((endpoint.host, endpoint.port)) as client:
            client.sendall(request)
    return wait_until(lambda: in_flight(region) == 0, "the work to be given up", 30)
