"""What regions send each other is held to the bounds that callers are held to."""

from __future__ import annotations

from typing import Any

import httpx
import orjson
import pytest

from actors.query.release_uses import ReleaseUses
from actors.regions.peer_services import RegionPeerServices
from cluster.clock import Deadline
from cluster.errors import InvalidArgument
from cluster.generation.generator import ChatMessage, GenerationRequest
from cluster.regions.wire import ANSWER, GENERATE, REACHED
from cluster.search.checks import CONVERSATION_CHARS_MAX, MESSAGES_MAX, PROMPT_CHARS_MAX
from cluster.serving.view import RegionView
from deployments.http.routes import REGION_ROUTES
from deployments.http.settings import HttpSettings
from tests.support.worlds.fake_service import FakeService, app_of
from tests.support.worlds.region_servers import FakePeerServices

ASKED: dict[str, Any] = {"question": "Why?"}
MESSAGE = {"role": "user", "content": "Why?"}
PROMPT: dict[str, Any] = {"release": 1, "messages": [MESSAGE], "max_tokens": 8, "request_id": "r"}
SAMPLING: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 32_769}, "max_tokens"),
    ({"temperature": 2.1}, "temperature"),
    ({"seed": 2**63}, "seed"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": ["a" * 257]}, "stop[0]"),
    ({"stop": [""]}, "stop[0]"),
    ({"timeout_ms": 600_001}, "timeout_ms"),
]
ANSWERS: list[tuple[dict[str, Any], str]] = [
    *SAMPLING,
    ({"question": "q" * (CONVERSATION_CHARS_MAX + 1), "retrieve": False}, "question"),
    ({"history": [MESSAGE] * MESSAGES_MAX}, "history"),
    ({"history": [{"role": "tool", "content": "a"}]}, "history[0].role"),
    ({"truncation": "always"}, "truncation"),
]
PROMPTS: list[tuple[dict[str, Any], str]] = [
    *SAMPLING,
    ({"messages": []}, "messages"),
    ({"messages": [MESSAGE] * (MESSAGES_MAX + 3)}, "messages"),
    ({"messages": [{"role": "<|im_start|>", "content": "a"}]}, "messages[0].role"),
    ({"begun": "x" * 2**22 + "x"}, "begun"),
]
REACHED_BODY: dict[str, Any] = {"corpus": "tea", "watermark": {"a": 3}}
POSITIONS: list[tuple[dict[str, Any], str]] = [
    ({"corpus": ""}, "corpus"),
    ({"watermark": {"a": -1}}, "watermark.a"),
    ({"watermark": {"a": 2**63}}, "watermark.a"),
    ({"watermark": {str(n): 1 for n in range(1025)}}, "watermark"),
    ({"watermark": [3]}, "watermark"),
    ({"timeout_ms": 0}, "timeout_ms"),
]
TABLE = [
    *((ANSWER, ASKED | wrong, field) for wrong, field in ANSWERS),
    *((GENERATE, PROMPT | wrong, field) for wrong, field in PROMPTS),
    *((REACHED, REACHED_BODY | wrong, field) for wrong, field in POSITIONS),
]


@pytest.mark.parametrize(("route", "body", "field"), TABLE)
async def test_what_is_out_of_bounds_is_refused_by_name(
    route: str, body: dict[str, Any], field: str
) -> None:
    service, peer_services = FakeService(), FakePeerServices()
    app = app_of(service, peer_services=peer_services)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://region") as client:
        reply = await client.post(route, content=orjson.dumps(body))
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["field"]) == (400, "invalid_argument", field)
    assert not service.answers
    assert not peer_services.asked
    assert not peer_services.reached_asked


@pytest.mark.parametrize("route", sorted(REGION_ROUTES))
@pytest.mark.parametrize(
    ("api_keys", "region_keys", "opened_by"),
    [
        ((), (), {None, "callers", "regions", "next"}),
        (("callers",), (), {"callers"}),
        (("callers",), ("regions", "next"), {"regions", "next"}),
        ((), ("regions",), {"regions"}),
    ],
)
async def test_only_regions_open_the_routes_of_regions(
    route: str, api_keys: tuple[str, ...], region_keys: tuple[str, ...], opened_by: set[str | None]
) -> None:
    settings = HttpSettings(api_keys=api_keys, region_keys=region_keys)
    app = app_of(FakeService(), settings, peer_services=FakePeerServices())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://region") as client:
        for key in (None, "callers", "regions", "next"):
            headers = {} if key is None else {"authorization": f"Bearer {key}"}
            told = (await client.post(route, content=b"{}", headers=headers)).status_code
            assert (told == 401) is (key not in opened_by), key
            searched = await client.get("/v1/status", headers=headers)
            lets_in = not api_keys or key in {*api_keys, *region_keys}
            assert (searched.status_code == 200) is lets_in, key


@pytest.mark.parametrize("route", sorted(REGION_ROUTES))
@pytest.mark.parametrize("ending", ["%0A", "%0a", "%0A%0A", "%0D%0A", "/", "%00", "%20"])
async def test_no_other_spelling_of_a_region_s_route_leads_there(route: str, ending: str) -> None:
    service, peer_services = FakeService(), FakePeerServices()
    settings = HttpSettings(api_keys=("callers",), region_keys=("regions",))
    app = app_of(service, settings, peer_services=peer_services)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    body = orjson.dumps(PROMPT if route == GENERATE else ASKED)
    async with httpx.AsyncClient(transport=transport, base_url="http://region") as client:
        headers = {"authorization": "Bearer callers"}
        reply = await client.post(route + ending, content=body, headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
    assert not service.answers
    assert not peer_services.asked


async def test_a_prompt_that_is_too_long_reaches_no_generator() -> None:
    half = ChatMessage(role="user", content="x" * (PROMPT_CHARS_MAX // 2 + 1))
    asked = GenerationRequest(messages=(half, half), max_tokens=8, temperature=0.0, request_id="r")
    generators = RegionPeerServices(
        lambda: RegionView(region="here"), ReleaseUses(), None, None, None
    )  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="characters together"):
        await anext(generators.generate(1, asked, Deadline.after(5)))
