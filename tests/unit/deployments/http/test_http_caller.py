"""Where a request comes from, as its headers and its address tell."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from cluster.errors import InvalidArgument
from cluster.query.caller import Location
from cluster.query.search import SearchRequest
from cluster.regions.settings import RoutingSettings
from cluster.regions.wire import FLOAT32_TYPE
from deployments.http.caller import CallerReader
from tests.support.worlds.fake_service import DIMENSION, FakeService, in_process

TABLE = {
    "10.0.0.0/8": {"latitude": 1.0, "longitude": 1.0},
    "10.2.0.0/16": {"latitude": 2.0, "longitude": 2.0},
    "2001:db8::/32": {"latitude": 3.0, "longitude": 3.0},
    "127.0.0.1/32": {"latitude": 4.0, "longitude": 4.0},
}
LOCATIONS = RoutingSettings.model_validate({"locations": TABLE}).locations
ASKED = SearchRequest(queries=("tea",))


def told(client: str | None, *headers: tuple[str, str], proxy: str = "") -> SearchRequest:
    scope: dict[str, Any] = {
        "type": "http",
        "client": None if client is None else (client, 5000),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
    }
    return CallerReader(LOCATIONS, proxy).with_caller(ASKED, scope)


def latitude(request: SearchRequest) -> float | None:
    location = request.caller.location
    return None if location is None else location.latitude


@pytest.mark.parametrize(
    ("client", "forwarded_for", "expected"),
    [
        ("10.9.9.9", [], 1.0),
        ("10.2.3.4", [], 2.0),
        ("2001:db8::7", [], 3.0),
        ("127.0.0.1", [], 4.0),
        ("192.0.2.1", [], None),
        (None, [], None),
        ("testclient", [], None),
        # The proxy on this machine is believed, and nobody else.
        ("127.0.0.1", ["10.2.3.4"], 2.0),
        ("::1", ["10.9.9.9"], 1.0),
        ("127.0.0.1", ["192.0.2.1"], None),
        ("127.0.0.1", ["10.2.0.1, 192.0.2.1"], None),
        ("127.0.0.1", ["10.2.0.1", "10.9.9.9"], 1.0),
        ("127.0.0.1", ["nonsense"], None),
        ("192.0.2.1", ["10.2.3.4"], None),
    ],
)
def test_an_address_is_looked_up_in_the_table(
    client: str | None, forwarded_for: list[str], expected: float | None
) -> None:
    headers = [("x-forwarded-for", value) for value in forwarded_for]
    assert latitude(told(client, *headers)) == expected


def test_the_proxy_on_another_machine_is_believed_too() -> None:
    headers = [("x-forwarded-for", "10.2.3.4")]
    assert latitude(told("192.0.2.1", *headers, proxy="192.0.2.1")) == 2.0
    assert latitude(told("192.0.2.2", *headers, proxy="192.0.2.1")) is None
    assert latitude(told(None, *headers, proxy="192.0.2.1")) is None


@pytest.mark.parametrize(
    ("value", "location"),
    [
        ("48.2,16.4", (48.2, 16.4)),
        (" -33.87 , +151.2 ", (-33.87, 151.2)),
        ("90,-180", (90.0, -180.0)),
        ("0,0", (0.0, 0.0)),
    ],
)
def test_a_location_in_the_header_goes_over_the_table(
    value: str, location: tuple[float, float]
) -> None:
    found = told("10.9.9.9", ("x-raygion-location", value)).caller.location
    assert found == Location(latitude=location[0], longitude=location[1])


@pytest.mark.parametrize(
    "value",
    [
        *("", "48.2", "48.2,", "48.2;16.4", "91,0", "0,180.5", "nan,0", "inf,0", "1e1,0"),
        *("1,2,3", "0x10,0", "\u00b2,0", "4" * 5000 + ",0"),
    ],
)
def test_what_is_no_location_is_refused_by_name(value: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        told("10.9.9.9", ("x-raygion-location", value))
    assert caught.value.field == "x-raygion-location"


def test_a_location_is_given_once() -> None:
    with pytest.raises(InvalidArgument):
        told(None, ("x-raygion-location", "1,2"), ("x-raygion-location", "1,2"))


def test_a_request_says_which_region_sent_it_on() -> None:
    assert told(None, ("x-raygion-forwarded-by", "eu-west.1")).forwarded_by == "eu-west.1"
    assert told(None) is ASKED
    for bad in ("", "a b", "x" * 65, "eu\u00e9"):
        with pytest.raises(InvalidArgument) as caught:
            told(None, ("x-raygion-forwarded-by", bad))
        assert caught.value.field == "x-raygion-forwarded-by"


HEADERS = {"x-raygion-location": "48.2,16.4", "x-raygion-forwarded-by": "eu"}
CHAT = {"model": "raygion", "messages": [{"role": "user", "content": "Why?"}]}


async def test_every_route_hands_it_on() -> None:
    service = FakeService()
    async with in_process(service) as client:
        vectors = np.ones(DIMENSION, np.float32).tobytes()
        binary = {**HEADERS, "content-type": FLOAT32_TYPE}
        replies = [
            await client.post("/v1/search", json={"query": "tea"}, headers=HEADERS),
            await client.post("/v1/search", content=vectors, headers=binary),
            await client.post("/v1/answer", json={"question": "Why?"}, headers=HEADERS),
            await client.post("/v1/chat/completions", json=CHAT, headers=HEADERS),
        ]
        assert {reply.status_code for reply in replies} == {200}
        for asked in (*service.searches, *service.answers):
            assert asked.caller.location == Location(latitude=48.2, longitude=16.4)
            assert asked.forwarded_by == "eu"
        assert len(service.searches) == len(service.answers) == 2
        for route, body in (("/v1/search", {"query": "tea"}), ("/v1/answer", {"question": "?"})):
            await refused(client, route, body)


async def refused(client: httpx.AsyncClient, route: str, body: dict[str, Any]) -> None:
    reply = await client.post(route, json=body, headers={"x-raygion-location": "north"})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["code"], error["field"]) == ("invalid_argument", "x-raygion-location")
    assert error["message"].startswith("x-raygion-location: must be one latitude and longitude")
