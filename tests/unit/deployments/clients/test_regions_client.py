"""Callers of several regions: failover, sessions, and the commands that use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest
import yaml
from typer.testing import CliRunner

from cluster import errors
from cluster.config import Settings
from cluster.mutations.watermark import Watermark
from cluster.query.caller import Location
from cluster.query.session import SessionToken
from deployments.cli.main import app
from deployments.clients.regions_client import RegionsClient
from deployments.installation import NotRunning
from tests.support.worlds.fake_service import FakeService
from tests.support.worlds.region_servers import nobody, serving

T = TypeVar("T")
SEARCH, ANSWER = "/v1/search", "/v1/answer"
QUERY = {"query": "tea"}
QUESTION = {"question": "Capital?", "stream": True}


@asynccontextmanager
async def regions(**services: FakeService | str) -> AsyncIterator[Settings]:
    """The services as regions, in this order; a text is the URL of one that is away."""
    async with AsyncExitStack() as stack:
        urls = {}
        for name, service in services.items():
            url = service
            if isinstance(service, FakeService):
                url = await stack.enter_async_context(serving(service))
            urls[name] = {"url": url}
        yield Settings.model_validate({"regions": urls})


async def using(settings: Settings, use: Callable[[RegionsClient], T]) -> T:
    """In a thread of its own: the client blocks, and the regions live in this loop."""

    def run() -> T:
        # Regions that share one event loop, on a busy machine, are slow to connect.
        with RegionsClient(settings, connect_timeout_s=30.0) as client:
            return use(client)

    return await asyncio.to_thread(run)


def ask(client: RegionsClient) -> list[tuple[str, dict[str, Any]]]:
    return list(client.stream(ANSWER, QUESTION))


async def test_the_first_region_of_the_order_answers() -> None:
    first, second = FakeService(), FakeService()
    async with regions(first=first, second=second) as settings:
        reply = await using(settings, lambda client: client.post(SEARCH, QUERY))
    assert reply["hits"]
    assert (len(first.searches), len(second.searches)) == (1, 0)


async def test_a_region_that_is_away_is_passed_over_and_then_left_out() -> None:
    service = FakeService()
    with nobody() as lost:
        async with regions(lost=lost, there=service) as settings:

            def use(client: RegionsClient) -> tuple[str, ...]:
                for _ in range(4):
                    client.post(SEARCH, {**QUERY, "consistency": "eventual"})
                client.session = ""
                assert [event for event, _ in ask(client)][-1] == "done"
                return client.order(QUERY)

            assert await using(settings, use) == ("there", "lost")
    assert len(service.searches) == 4


@pytest.mark.parametrize(
    "error",
    [
        errors.Unavailable("no shard"),
        errors.Overloaded("full", 2.0),
        errors.DeadlineExceeded("late"),
        errors.NotYet("not here yet"),
        errors.Corrupt("a file"),
        ValueError("a bug"),
    ],
)
async def test_what_another_region_may_do_better_is_asked_there(
    error: Exception,
) -> None:
    failing, service = FakeService(), FakeService()
    failing.search_error = failing.answer_error = error
    async with regions(failing=failing, there=service) as settings:
        assert (await using(settings, lambda client: client.post(SEARCH, QUERY)))["hits"]
        assert (await using(settings, ask))[-1][0] == "done"
    assert (len(service.searches), len(service.answers)) == (1, 1)


async def test_a_region_that_fails_by_itself_is_left_out_like_one_that_is_away() -> None:
    failing, service = FakeService(), FakeService()
    failing.search_error = errors.Corrupt("a file")
    async with regions(failing=failing, there=service) as settings:

        def use(client: RegionsClient) -> tuple[str, ...]:
            for _ in range(3):
                client.post(SEARCH, {**QUERY, "consistency": "eventual"})
            return client.order(QUERY)

        assert await using(settings, use) == ("there", "failing")


async def test_what_the_caller_got_wrong_is_said_once() -> None:
    failing, service = FakeService(), FakeService()
    failing.search_error = errors.InvalidArgument("no", "corpus")
    async with regions(failing=failing, there=service) as settings:
        with pytest.raises(errors.InvalidArgument, match="corpus: no"):
            await using(settings, lambda client: client.post(SEARCH, QUERY))
    assert not service.searches


async def test_when_no_region_answers_the_last_error_says_why() -> None:
    failing = FakeService()
    failing.search_error = errors.Unavailable("no shard")
    with nobody() as lost:
        async with regions(failing=failing, lost=lost) as settings:
            with pytest.raises(NotRunning, match="no region answers at"):
                await using(settings, lambda client: client.post(SEARCH, QUERY))


async def test_a_region_that_hangs_leaves_time_for_the_next() -> None:
    hanging, service = FakeService(), FakeService()
    hanging.gate.clear()
    async with regions(hanging=hanging, there=service) as settings:
        body = {**QUERY, "timeout_ms": 4000}
        assert (await using(settings, lambda client: client.post(SEARCH, body)))["hits"]
    # The regions are told their share of the time.
    assert 1.0 < hanging.searches[0].timeout_s <= 2.0
    assert service.searches[0].timeout_s < 2.0


async def test_an_answer_that_has_begun_is_not_begun_again() -> None:
    breaking, service = FakeService(), FakeService()
    breaking.token_error = errors.Unavailable("the replica died")
    async with regions(breaking=breaking, there=service) as settings:
        with pytest.raises(errors.Unavailable, match="the replica died"):
            await using(settings, ask)
    assert not service.answers


class Tokens(FakeService):
    """Gives a token with each search, the last one again and again."""

    def __init__(self, *tokens: str) -> None:
        super().__init__()
        self.tokens_left = list(tokens)

    async def search(self, request: Any) -> Any:
        last = len(self.tokens_left) == 1
        self.made["session"] = self.tokens_left[0] if last else self.tokens_left.pop(0)
        return await super().search(request)


async def test_what_was_seen_is_not_forgotten_when_a_region_lags_behind() -> None:
    seen = [
        SessionToken(store, position).encode()
        for store, position in (("store", 12), ("store", 9), ("store", 14), ("other", 3))
    ]
    service = Tokens(*seen, "", "what a later version gives")
    async with regions(there=service) as settings:

        def use(client: RegionsClient) -> list[str]:
            told = []
            for _ in range(6):
                client.post(SEARCH, {**QUERY, "consistency": "eventual"})
                told.append(client.session)
            return told

        first, _, later, other = seen
        last = "what a later version gives"
        assert await using(settings, use) == [first, first, later, other, other, last]


async def test_documents_that_were_seen_by_way_of_different_regions_are_remembered() -> None:
    here, there = Watermark.of({"here": 4, "there": 1}), Watermark.of({"here": 3, "there": 2})
    seen = [
        SessionToken("store", 12, {"tea": here}),
        SessionToken("store", 9, {"tea": there, "coffee": here}),
        SessionToken("store", 13),
    ]
    service = Tokens(*(token.encode() for token in seen))
    async with regions(there=service) as settings:

        def use(client: RegionsClient) -> str:
            for _ in seen:
                client.post(SEARCH, {**QUERY, "consistency": "eventual"})
            return client.session

        both = {"tea": Watermark.of({"here": 4, "there": 2}), "coffee": here}
        assert await using(settings, use) == SessionToken("store", 13, both).encode()


async def test_what_was_seen_goes_along_with_the_next_request() -> None:
    token = "WzEsInN0b3JlIiwxMl0"
    service = Tokens(token)
    async with regions(there=service) as settings:

        def use(client: RegionsClient) -> str:
            for body in (QUERY, QUERY, {**QUERY, "release": 7}, {**QUERY, "consistency": "strong"}):
                client.post(SEARCH, body)
            return client.session

        assert await using(settings, use) == token
    carried = [request.consistency.session for request in service.searches]
    assert [session is not None for session in carried] == [False, True, False, False]
    assert carried[1] is not None
    assert (carried[1].store_id, carried[1].position) == ("store", 12)


async def test_the_settings_say_the_order() -> None:
    near, far = FakeService(), FakeService()
    async with regions(far=far, near=near) as settings:
        given = settings.model_dump()
        given["routing"]["policy"] = "nearest"
        given["regions"]["far"]["location"] = {"latitude": 35.7, "longitude": 139.7}
        given["regions"]["near"]["location"] = {"latitude": 50.1, "longitude": 8.7}
        vienna = Location(latitude=48.2, longitude=16.4)

        def run() -> None:
            with RegionsClient(Settings.model_validate(given), location=vienna) as client:
                client.post(SEARCH, QUERY)

        await asyncio.to_thread(run)
    assert (len(near.searches), len(far.searches)) == (1, 0)


async def test_the_commands_go_to_the_next_region(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = FakeService()
    with nobody() as lost:
        async with regions(lost=lost, there=service) as settings:
            file = tmp_path / "regions.yaml"
            file.write_text(yaml.safe_dump(orjson.loads(settings.to_bytes())))
            monkeypatch.chdir(tmp_path)
            runner = CliRunner()
            found = await asyncio.to_thread(runner.invoke, app, ["search", "tea", "--json"])
            told = await asyncio.to_thread(runner.invoke, app, ["search", "tea"])
            asked = await asyncio.to_thread(runner.invoke, app, ["ask", "Capital?"])
            named = await asyncio.to_thread(runner.invoke, app, ["search", "x", "--region", "lost"])
    assert orjson.loads(found.stdout)["served_by"] == "south"
    assert "region north, served by south" in told.stdout
    assert "Reykjavik [1]" in asked.stdout
    assert isinstance(named.exception, NotRunning)
