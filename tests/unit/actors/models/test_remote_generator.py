"""The generating step in another region: over real connections, and when regions break off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from actors.models.remote_generator import RemoteGenerator
from cluster import errors
from cluster.clock import Deadline
from cluster.config import Settings
from cluster.generation.generator import ChatMessage, GenerationChunk, GenerationRequest
from cluster.regions.wire import ANSWER, GENERATE, NUDGE
from tests.support.worlds.fake_service import FakeService
from tests.support.worlds.region_servers import (
    WORDS,
    FakePeerServices,
    nobody,
    peers_of,
    serving,
    settings_of,
)

RELEASE = 7
PROMPT = GenerationRequest(
    messages=(
        ChatMessage(role="system", content="Answer from the passages.\u2028"),
        ChatMessage(role="user", content="Capital?"),
    ),
    max_tokens=16,
    temperature=0.25,
    request_id="r1",
    stop=("\n",),
    seed=5,
)


@asynccontextmanager
async def regions(
    *peer_services: FakePeerServices, first: str | None = None
) -> AsyncIterator[RemoteGenerator]:
    """A generator over regions `r0`, `r1`, ..., asked in this order; `first`: one more before."""
    async with AsyncExitStack() as stack:
        urls = {} if first is None else {"lost": first}
        for number, each in enumerate(peer_services):
            urls[f"r{number}"] = await stack.enter_async_context(serving(FakeService(), each))
        peers = await stack.enter_async_context(peers_of(settings_of(urls)))
        yield RemoteGenerator(peers, RELEASE, None)


async def written(
    generator: RemoteGenerator,
    request: GenerationRequest = PROMPT,
    into: list[GenerationChunk] | None = None,
) -> list[GenerationChunk]:
    chunks = [] if into is None else into
    async for chunk in generator.stream(request, Deadline.after(10.0)):
        chunks.append(chunk)
    return chunks


def text_of(chunks: list[GenerationChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def test_the_prompt_arrives_as_it_is_and_the_pieces_come_back() -> None:
    peer_services = FakePeerServices()
    async with regions(peer_services) as generator:
        chunks = await written(generator)
    assert tuple(chunk.text for chunk in chunks[:-1]) == WORDS
    assert chunks[-1] == GenerationChunk(
        text="", finish_reason="stop", prompt_tokens=10, completion_tokens=4
    )
    ((release, request, remaining_s),) = peer_services.asked
    assert (release, request) == (RELEASE, PROMPT)
    assert 5.0 < remaining_s <= 10.0


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_another_region_goes_on_from_the_last_piece(after: int) -> None:
    breaking, whole = FakePeerServices(), FakePeerServices()
    breaking.error, breaking.breaks_after = errors.Unavailable("the replica died"), after
    async with regions(breaking, whole) as generator:
        chunks = await written(generator)
    assert text_of(chunks) == "".join(WORDS)
    # The counts are those of one whole answer.
    assert (chunks[-1].prompt_tokens, chunks[-1].completion_tokens) == (10, 4)
    ((_, request, _),) = whole.asked
    assert request.begun == "".join(WORDS[:after])
    assert request.max_tokens == PROMPT.max_tokens - after


async def test_a_region_that_cannot_be_reached_is_passed_over() -> None:
    peer_services = FakePeerServices()
    with nobody() as lost:
        async with regions(peer_services, first=lost) as generator:
            assert text_of(await written(generator)) == "".join(WORDS)


async def test_a_region_without_the_release_is_passed_over() -> None:
    behind, whole = FakePeerServices(), FakePeerServices()
    behind.error = errors.NotYet("release 7 is not resident")
    async with regions(behind, whole) as generator:
        assert text_of(await written(generator)) == "".join(WORDS)


async def test_when_all_break_off_the_error_ends_the_stream() -> None:
    one, other = FakePeerServices(), FakePeerServices()
    one.error, one.breaks_after = errors.Unavailable("died"), 2
    other.error, other.breaks_after = errors.Overloaded("full", 3.0), 1
    got: list[GenerationChunk] = []
    async with regions(one, other) as generator:
        with pytest.raises(errors.Overloaded, match="full"):
            await written(generator, into=got)
    assert text_of(got) == "".join(WORDS[:3])
    assert all(chunk.finish_reason is None for chunk in got)


async def test_an_answer_that_is_as_long_as_it_may_be_is_not_gone_on_with() -> None:
    breaking, other = FakePeerServices(), FakePeerServices()
    breaking.error, breaking.breaks_after = errors.Unavailable("died"), 2
    async with regions(breaking, other) as generator:
        with pytest.raises(errors.Unavailable, match="died"):
            await written(generator, replace(PROMPT, max_tokens=2))
    assert not other.asked


async def test_what_the_caller_got_wrong_is_not_tried_elsewhere() -> None:
    strict, other = FakePeerServices(), FakePeerServices()
    strict.error = errors.InvalidArgument("the prompt is too long", "question")
    async with regions(strict, other) as generator:
        with pytest.raises(errors.InvalidArgument, match="the prompt is too long"):
            await written(generator)
    assert not other.asked


async def test_without_a_region_that_generates_there_is_no_answer() -> None:
    given = settings_of({"a": "http://127.0.0.1:1"}).model_dump()
    given["regions"]["a"]["generates"] = False
    async with peers_of(Settings.model_validate(given)) as peers:
        with pytest.raises(errors.Unavailable, match="no other region has a language model"):
            await written(RemoteGenerator(peers, RELEASE, None))


async def test_closing_the_stream_stops_the_writing_over_there() -> None:
    peer_services = FakePeerServices()
    peer_services.gate.clear()
    async with regions(peer_services) as generator:
        async with aclosing(generator.stream(PROMPT, Deadline.after(30.0))) as chunks:
            assert (await anext(chunks)).text == WORDS[0]
        async with asyncio.timeout(5.0):
            await peer_services.stopped.wait()


BODY: dict[str, Any] = {
    "release": 7,
    "messages": [{"role": "user", "content": "Capital?"}],
    "max_tokens": 8,
    "request_id": "r1",
}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"release": None}, "release"),
        ({"release": "7"}, "release"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages[0].name"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"timeout_ms": 0}, "timeout_ms"),
        ({"application": "generator-1"}, "application"),
    ],
)
async def test_bodies_are_checked(wrong: dict[str, Any], field: str) -> None:
    peer_services = FakePeerServices()
    async with (
        serving(FakeService(), peer_services) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        reply = await client.post(GENERATE, json=BODY | wrong)
    assert (reply.status_code, reply.json()["error"]["field"]) == (400, field)
    assert not peer_services.asked


async def test_the_routes_need_the_key() -> None:
    peer_services = FakePeerServices()
    async with (
        serving(FakeService(), peer_services, api_keys=("k",)) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        for route in (GENERATE, ANSWER, NUDGE):
            assert (await client.post(route, json=BODY)).status_code == 401
        assert peer_services.nudges == 0
        reply = await client.post(NUDGE, headers={"Authorization": "Bearer k"})
        assert (reply.status_code, peer_services.nudges) == (200, 1)


async def test_writing_for_others_keeps_to_the_bound_on_answers() -> None:
    peer_services = FakePeerServices()
    peer_services.gate.clear()
    async with (
        serving(FakeService(), peer_services, answers_in_flight_max=1) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        async with client.stream("POST", GENERATE, json=BODY) as first:
            assert first.status_code == 200
            second = await client.post(GENERATE, json=BODY)
        assert (second.status_code, second.json()["error"]["code"]) == (503, "overloaded")
