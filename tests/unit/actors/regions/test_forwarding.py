"""Regions that send requests on to each other over real connections: each once, and never round."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from actors.regions.forwarding_service import ForwardingService
from cluster import errors
from cluster.clock import SYSTEM_CLOCK
from cluster.config import Settings
from cluster.query.answers import AnswerEvent, AnswerRequest
from cluster.query.search import SearchRequest, SearchResult
from cluster.serving.consistency import RegionKnowledge
from tests.support.worlds.fake_service import FakeService
from tests.support.worlds.region_servers import nobody, peers_of, serving

LOCATIONS = {"eu": (50.1, 8.7), "us": (38.9, -77.0), "asia": (35.7, 139.7)}
NEAR_EU = {"x-raygion-location": "48.2,16.4"}
NEAR_ASIA = {"x-raygion-location": "-36.8,174.8"}
QUERY, QUESTION = {"query": "tea"}, {"question": "Capital?"}
CHAT = {"model": "raygion", "messages": [{"role": "user", "content": "Capital?"}]}


class Engine(FakeService):
    """A region's own engine: what it makes has its name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.made |= {"region": name, "served_by": name}
        self.elsewhere: set[str] = set()

    async def search(self, request: SearchRequest) -> SearchResult:
        if request.corpus in self.elsewhere:
            raise errors.InvalidArgument("is not kept in this region", "corpus")
        return await super().search(request)


class Region(FakeService):
    """What a gateway serves: the regional service, once its peers are known."""

    def __init__(self) -> None:
        super().__init__()
        self.service: ForwardingService

    async def search(self, request: SearchRequest) -> SearchResult:
        return await self.service.search(request)

    def answer_events(self, request: AnswerRequest) -> AsyncGenerator[AnswerEvent, None]:
        return self.service.answer_events(request)


class NoViews:
    """Requests that demand nothing need to know nothing."""

    @property
    def knowledge(self) -> RegionKnowledge:
        raise AssertionError("nothing was demanded")

    async def refresh(self) -> None:
        raise AssertionError("nothing was demanded")


class World:
    def __init__(self) -> None:
        self.engines = {name: Engine(name) for name in LOCATIONS}
        self.urls: dict[str, str] = {}
        self.client: httpx.AsyncClient

    async def ask(
        self, region: str, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        reply = await self.client.post(self.urls[region] + path, json=body, headers=headers)
        told: dict[str, Any] = reply.json()
        return told

    def served(self) -> dict[str, int]:
        """Requests that each engine had to work on."""
        return {name: len(e.searches) + len(e.answers) for name, e in self.engines.items()}


@asynccontextmanager
async def world(
    policies: dict[str, str] | None = None, away: str | None = None, **others: Any
) -> AsyncIterator[World]:
    """Three regions. `policies`: of each region's own settings. `away`: nobody listens there."""
    made = World()
    async with AsyncExitStack() as stack:
        made.client = await stack.enter_async_context(httpx.AsyncClient())
        gateways = {name: Region() for name in LOCATIONS}
        for name, gateway in gateways.items():
            made.urls[name] = (
                stack.enter_context(nobody())
                if name == away
                else await stack.enter_async_context(serving(gateway))
            )
        for name, gateway in gateways.items():
            routing = {"policy": (policies or {}).get(name, "nearest")}
            given = Settings.model_validate(
                {"regions": regions(made.urls), "routing": routing} | others
            )
            gateway.service = ForwardingService(
                region=name,
                engine=made.engines[name],
                views=NoViews(),
                peers=await stack.enter_async_context(peers_of(given, name)),
                clock=SYSTEM_CLOCK,
                quorum_pause_s=0.1,
            )
        yield made


def regions(urls: dict[str, str]) -> dict[str, Any]:
    return {
        name: {
            "url": url,
            "location": {"latitude": LOCATIONS[name][0], "longitude": LOCATIONS[name][1]},
        }
        for name, url in urls.items()
    }


@pytest.mark.parametrize(
    ("asked", "headers", "served_by"),
    [
        ("us", NEAR_EU, "eu"),
        ("eu", NEAR_EU, "eu"),
        ("eu", NEAR_ASIA, "asia"),
        ("us", {}, "us"),
        # What another region sent on stays, wherever it came from.
        ("us", NEAR_EU | {"x-raygion-forwarded-by": "asia"}, "us"),
    ],
)
@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/search", QUERY), ("/v1/answer", QUESTION)],
)
async def test_a_request_is_served_nearest_to_its_caller(
    asked: str, headers: dict[str, str], served_by: str, path: str, body: dict[str, Any]
) -> None:
    async with world() as made:
        reply = await made.ask(asked, path, body, headers)
    assert (reply["region"], reply["served_by"]) == (asked, served_by)
    assert made.served() == {name: int(name == served_by) for name in LOCATIONS}


async def test_openais_chat_goes_the_same_way() -> None:
    async with world() as made:
        reply = await made.ask("us", "/v1/chat/completions", CHAT, NEAR_EU)
        plain = {**CHAT, "model": reply["raygion"]["release"]}
        assert plain["model"] == 7
    assert reply["choices"][0]["message"]["content"] == "Reykjavik [1]"
    (asked,) = made.engines["eu"].answers
    assert asked.forwarded_by == "us"


async def test_the_users_region_serves_whoever_is_asked() -> None:
    async with world(dict.fromkeys(LOCATIONS, "user")) as made:
        body = {**QUERY, "user": "ada"}
        served = {(await made.ask(name, "/v1/search", body))["served_by"] for name in LOCATIONS}
        assert len(served) == 1
        others = [
            (await made.ask("eu", "/v1/search", {**QUERY, "user": f"u{i}"}))["served_by"]
            for i in range(8)
        ]
    assert set(others) == set(LOCATIONS)


async def test_regions_that_disagree_do_not_send_requests_round() -> None:
    """`eu` knows only of `user`, the others of `nearest`: each would send it to another one."""
    async with world({"eu": "user", "us": "nearest", "asia": "nearest"}) as made:
        for i in range(5):
            await made.ask("eu", "/v1/search", {**QUERY, "user": f"u{i}"}, NEAR_ASIA)
    assert sum(made.served().values()) == 5


@pytest.mark.parametrize("path", ["/v1/search", "/v1/answer"])
async def test_when_the_nearest_is_away_the_one_that_was_asked_serves(path: str) -> None:
    async with world(away="eu") as made:
        for _ in range(5):
            body = QUERY if path == "/v1/search" else QUESTION
            assert (await made.ask("us", path, body, NEAR_EU))["served_by"] == "us"


@pytest.mark.parametrize("error", [errors.Unavailable("no shard"), errors.Overloaded("full")])
async def test_what_fails_here_is_served_there(error: errors.RaygionError) -> None:
    async with world() as made:
        made.engines["us"].search_error = made.engines["us"].answer_error = error
        assert (await made.ask("us", "/v1/search", QUERY))["served_by"] == "eu"
        assert (await made.ask("us", "/v1/answer", QUESTION))["served_by"] == "eu"


async def test_a_corpus_is_asked_for_only_where_it_is_kept() -> None:
    async with world(corpora={"factbook": {"regions": ["asia"]}, "open": {}}) as made:
        body = {**QUERY, "corpus": "factbook"}
        for name in ("eu", "us"):
            made.engines[name].elsewhere = {"factbook"}
        for asked in LOCATIONS:
            assert (await made.ask(asked, "/v1/search", body, NEAR_EU))["served_by"] == "asia"
        made.engines["asia"].search_error = errors.Unavailable("no shard")
        reply = await made.ask("eu", "/v1/search", body)
    # That it is away where it is kept, not that it is not kept here.
    assert reply["error"]["code"] == "unavailable"


async def test_bad_input_is_refused_by_the_first_that_sees_it() -> None:
    async with world() as made:
        reply = await made.ask("us", "/v1/search", {**QUERY, "corpus": "unknown"}, NEAR_EU)
    assert reply["error"]["field"] == "corpus"
    assert reply["error"]["message"].count("corpus: ") == 1
    assert sum(made.served().values()) == 1


async def test_a_caller_who_leaves_ends_the_work_two_regions_away() -> None:
    async with world() as made:
        far = made.engines["eu"]
        far.gate.clear()
        async with httpx.AsyncClient(base_url=made.urls["us"]) as client:
            body = {**QUESTION, "stream": True}
            async with client.stream("POST", "/v1/answer", json=body, headers=NEAR_EU) as reply:
                assert reply.status_code == 200
                await far.generating.wait()
        async with asyncio.timeout(5.0):
            await far.stopped.wait()
    assert far.completed == 0
