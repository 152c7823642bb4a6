"""One region asks another one, over real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import pytest
from pydantic import SecretStr

from actors.regions.http_peers import RegionPeers
from cluster import errors
from cluster.clock import Deadline
from cluster.config import Settings
from cluster.generation.generator import ChatMessage, GenerationRequest
from cluster.generation.prompt import Truncated, Truncation
from cluster.query.answers import (
    AnswerEvent,
    AnswerOutcome,
    AnswerRequest,
    AnswerResult,
    Retrieved,
    Token,
)
from cluster.query.filters import parse_filter
from cluster.query.read_consistency import read_consistency_of
from cluster.query.search import SearchRequest
from cluster.query.session import SessionToken
from deployments.http.streams.alive_stream import SilenceLimits
from tests.support.waiting import until
from tests.support.worlds.fake_service import HIT, FakeService
from tests.support.worlds.region_servers import (
    PATIENT,
    FakePeerServices,
    nobody,
    peers_of,
    serving,
    settings_of,
)

TRACE = "0af7651916cd43dd8448eb211c80319c"
SEARCH = SearchRequest(queries=("tea",), trace_id=TRACE)
QUESTION = AnswerRequest(question="What is the capital of Iceland?", trace_id=TRACE)
PROMPT = GenerationRequest(
    messages=(ChatMessage(role="user", content="Capital?"),),
    max_tokens=16,
    temperature=0.0,
    request_id="r1",
)
DEMAND = read_consistency_of("strong", SessionToken("store", 12).encode(), None)


async def test_a_question_arrives_as_it_was_asked_and_its_events_come_back() -> None:
    service = FakeService()
    service.came_about = {
        "outcome": AnswerOutcome.NOTHING_FOUND,
        "truncated": Truncated(history_messages=3, passages_shortened=1),
    }
    asked = AnswerRequest(
        question="Capital?\u2028",
        history=(ChatMessage(role="assistant", content="Hi\n"),),
        corpus="factbook",
        top_k=2,
        filter=parse_filter({"region": "europe"}),
        max_tokens=99,
        temperature=0.5,
        stop=("\n", "END"),
        seed=3,
        truncation=Truncation.DISABLED,
        min_coverage=0.5,
        user="u",
        trace_id=TRACE,
        consistency=DEMAND,
    )
    async with serving(service) as url, peers_of(settings_of({"there": url})) as peers:
        events = await collect(peers, asked)
        pinned = read_consistency_of(None, SessionToken("store", 12).encode(), None, release=3)
        plain = replace(asked, retrieve=False, question="x" * 10_000, release=3)
        await collect(peers, replace(plain, consistency=pinned))
    first, last = events[0], events[-1]
    assert isinstance(first, Retrieved)
    assert isinstance(last, AnswerResult)
    assert [event.text for event in events[1:-1] if isinstance(event, Token)] == list(
        service.tokens
    )
    assert (first.citations[0].id, first.served_by, first.session) == (HIT.id, "south", "a-token")
    assert (last.answer, last.usage.completion_tokens) == ("Reykjavik [1]", 3)
    for event in (first, last):
        assert event.outcome is AnswerOutcome.NOTHING_FOUND
        assert event.truncated == service.came_about["truncated"]
    got, got_plain = service.answers
    assert replace(got, timeout_s=1.0, forwarded_by="") == replace(asked, timeout_s=1.0)
    assert got.forwarded_by == "here"
    assert (got_plain.retrieve, len(got_plain.question), got_plain.release) == (False, 10_000, 3)
    assert got_plain.consistency == pinned


async def collect(
    peers: RegionPeers, asked: AnswerRequest, into: list[AnswerEvent] | None = None
) -> list[AnswerEvent]:
    got = [] if into is None else into
    async for event in peers.answer_events("there", asked, Deadline.after(5.0)):
        got.append(event)
    return got


ERRORS: list[tuple[errors.RaygionError, type[errors.RaygionError]]] = [
    (errors.InvalidArgument("must be less", "top_k"), errors.InvalidArgument),
    (errors.InvalidArgument("says nothing"), errors.InvalidArgument),
    (errors.ContextLengthExceeded("too long", "messages"), errors.ContextLengthExceeded),
    (errors.NotFound("no such model"), errors.NotFound),
    (errors.NotYet("not here yet"), errors.NotYet),
    (errors.Overloaded("full", 7.0), errors.Overloaded),
    (errors.Unavailable("no shard"), errors.Unavailable),
    (errors.TooLarge("too long"), errors.TooLarge),
    (errors.Corrupt("secret"), errors.Unavailable),
    (errors.RaygionError("secret"), errors.Unavailable),
]


@pytest.mark.parametrize(("error", "kind"), ERRORS)
async def test_errors_keep_their_kind(
    error: errors.RaygionError, kind: type[errors.RaygionError]
) -> None:
    service = FakeService()
    service.search_error = service.answer_error = error
    async with serving(service) as url, peers_of(settings_of({"there": url})) as peers:
        with pytest.raises(kind) as searching:
            await peers.search("there", SEARCH, Deadline.after(5.0))
        with pytest.raises(kind) as answering:
            await collect(peers, QUESTION)
    assert type(searching.value) is type(answering.value) is kind
    if kind is type(error):
        assert str(searching.value) == str(answering.value) == str(error)
        assert vars(searching.value) == vars(error)
    else:
        assert "secret" not in str(searching.value)


async def test_a_stream_that_breaks_over_there_breaks_here_with_its_kind() -> None:
    service = FakeService()
    service.token_error = errors.Overloaded("the queue is full")
    async with serving(service) as url, peers_of(settings_of({"there": url})) as peers:
        got: list[AnswerEvent] = []
        with pytest.raises(errors.Overloaded, match="the queue is full"):
            await collect(peers, QUESTION, got)
        assert len(got) == 3
        service.token_error = None
        service.ends_early = True
        with pytest.raises(errors.Unavailable):
            await collect(peers, QUESTION)


async def test_the_key_of_the_other_region_is_presented() -> None:
    service, peer_services = FakeService(), FakePeerServices()
    async with serving(service, peer_services, api_keys=("theirs",)) as url:
        given = settings_of({"there": url}).model_dump(mode="json")
        given["regions"]["there"]["http"]["api_keys"] = ["theirs"]
        async with peers_of(type(settings_of({})).model_validate(given)) as peers:
            await peers.search("there", SEARCH, Deadline.after(5.0))
            await collect(peers, QUESTION)
        async with peers_of(settings_of({"there": url})) as peers:
            with pytest.raises(errors.Unavailable, match="unauthenticated"):
                await peers.search("there", SEARCH, Deadline.after(5.0))
    assert len(service.searches) == len(service.answers) == 1


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (["old"], ["old"]),
        # A key is exchanged in three steps, each in all regions: take the new one, send it, drop
        # the old one. Two regions are one step apart at most.
        (["old"], ["old", "new"]),
        (["old", "new"], ["new", "old"]),
        (["new", "old"], ["new"]),
    ],
)
async def test_regions_know_each_other_by_a_key_of_their_own(
    ours: list[str], theirs: list[str]
) -> None:
    service, peer_services = FakeService(), FakePeerServices()
    keys = {"api_keys": ("a-callers",), "region_keys": tuple(theirs)}
    async with serving(service, peer_services, **keys) as url:
        settings = settings_of({"there": url}).model_copy(
            update={"region_keys": tuple(map(SecretStr, ours))}
        )
        async with peers_of(settings) as peers:
            await peers.search("there", SEARCH, Deadline.after(5.0))
            await collect(peers, QUESTION)
    assert len(service.searches) == len(service.answers) == 1


async def test_closing_a_stream_stops_the_work_over_there() -> None:
    service, peer_services = FakeService(), FakePeerServices()
    service.gate.clear()
    peer_services.gate.clear()
    async with (
        serving(service, peer_services) as url,
        peers_of(settings_of({"there": url})) as peers,
    ):
        asking = peers.answer_events("there", QUESTION, Deadline.after(30.0))
        async with aclosing(asking) as events:
            assert isinstance(await anext(events), Retrieved)
            await service.generating.wait()
        async with asyncio.timeout(5.0):
            await service.stopped.wait()
        writing = peers.generate("there", 7, PROMPT, Deadline.after(30.0))
        async with aclosing(writing) as chunks:
            assert (await anext(chunks)).text == "The "
        async with asyncio.timeout(5.0):
            await peer_services.stopped.wait()
    assert service.completed == 0


async def test_cancelling_ends_the_work_over_there() -> None:
    service = FakeService()
    service.gate.clear()
    async with serving(service) as url, peers_of(settings_of({"there": url})) as peers:
        searching = asyncio.create_task(peers.search("there", SEARCH, Deadline.after(30.0)))
        answering = asyncio.create_task(collect(peers, QUESTION))
        await until(lambda: service.waiting == 2)
        searching.cancel()
        answering.cancel()
        await asyncio.gather(searching, answering, return_exceptions=True)
        await until(lambda: service.waiting == 0)


async def test_time_runs_out_here_even_when_the_other_region_says_nothing() -> None:
    service = FakeService()
    service.gate.clear()
    async with serving(service) as url, peers_of(settings_of({"there": url})) as peers:
        with pytest.raises(errors.DeadlineExceeded):
            await peers.search("there", SEARCH, Deadline.after(0.3))
        with pytest.raises(errors.DeadlineExceeded):
            async for _ in peers.answer_events("there", QUESTION, Deadline.after(0.3)):
                pass
        with pytest.raises(errors.DeadlineExceeded):
            await peers.search("there", SEARCH, Deadline.after(0.0))
        await until(lambda: service.waiting == 0)


async def test_a_region_that_is_away_comes_last_until_it_answers_again() -> None:
    service = FakeService()
    with nobody() as lost:
        async with serving(service) as url:
            settings = settings_of({"lost": lost, "there": url})
            async with peers_of(settings) as peers:
                assert peers.candidates(SEARCH) == ("lost", "there")
                for _ in range(3):
                    with pytest.raises(errors.Unavailable, match="'lost' does not answer"):
                        await peers.search("lost", SEARCH, Deadline.after(5.0))
                assert peers.candidates(SEARCH) == ("there", "lost")
                # What a region refuses is no fault of its own.
                service.search_error = errors.InvalidArgument("no", "corpus")
                for _ in range(6):
                    with pytest.raises(errors.InvalidArgument):
                        await peers.search("there", SEARCH, Deadline.after(5.0))
                assert peers.candidates(SEARCH) == ("there", "lost")


async def test_answers_are_written_by_the_other_regions_where_a_model_runs() -> None:
    given = settings_of({"writes": "http://a:1", "reads": "http://b:1"}).model_dump()
    given["regions"]["reads"]["generates"] = False
    async with peers_of(Settings.model_validate(given)) as peers:
        assert peers.generators(None) == ("writes",)
        assert peers.holders(SEARCH) == ("here", "writes", "reads")


async def test_a_restarted_region_is_asked_over_a_new_connection() -> None:
    """The old one, kept open, was closed over there without a word."""
    closed = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal closed
        while await reader.readline() not in (b"\r\n", b""):
            pass
        await reader.read(1024)
        body = b'{"status":"ok"}' if closed == 0 else b"{}"
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        closed += 1
        writer.close()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, peers_of(settings_of({"there": url})) as peers:
        for _ in range(3):
            # Answered each time, though by what is no region.
            with pytest.raises(errors.Unavailable, match="not what a region sends"):
                await peers.search("there", SEARCH, Deadline.after(5.0))
    assert closed == 3


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnull",
        b'HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{"results":[1]}'[:-1],
        b"HTTP/1.1 502 Bad\r\ncontent-length: 5\r\n\r\n<html",
        b"HTTP/1.1 200 OK\r\ncontent-length: 400\r\n\r\nshort",
        b"garbage\r\n\r\n",
    ],
)
async def test_what_is_no_region_is_unavailable(reply: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(reply)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, peers_of(settings_of({"there": url})) as peers:
        with pytest.raises(errors.Unavailable):
            await peers.search("there", SEARCH, Deadline.after(5.0))
        with pytest.raises(errors.Unavailable):
            await collect(peers, QUESTION)


class Slow(FakeService):
    """Says nothing for longer than a lost region may."""

    async def answer_events(self, request: AnswerRequest) -> AsyncGenerator[AnswerEvent, None]:
        await self.gate.wait()
        async for event in super().answer_events(request):
            yield event


IMPATIENT = replace(PATIENT, silence_s=1.0)


async def test_a_slow_region_is_no_lost_one() -> None:
    service = Slow()
    service.gate.clear()
    often = SilenceLimits(between_regions_s=0.05)
    async with (
        serving(service, silence=often) as url,
        peers_of(settings_of({"there": url}), timeouts=IMPATIENT) as peers,
    ):
        answering = asyncio.create_task(collect(peers, QUESTION))
        # Longer than silence may last.
        asyncio.get_running_loop().call_later(1.6, service.gate.set)
        assert isinstance((await answering)[-1], AnswerResult)
        # An error that comes after signs of life is one all the same.
        service.gate.clear()
        service.answer_error = errors.NotYet("not here")
        asyncio.get_running_loop().call_later(0.2, service.gate.set)
        with pytest.raises(errors.NotYet, match="not here"):
            await collect(peers, QUESTION)


async def test_a_region_without_a_sign_of_life_is_a_lost_one() -> None:
    service = Slow()
    service.gate.clear()
    never = SilenceLimits(between_regions_s=60.0)
    async with (
        serving(service, silence=never) as url,
        peers_of(settings_of({"there": url}), timeouts=IMPATIENT) as peers,
    ):
        with pytest.raises(errors.Unavailable, match="does not answer"):
            await collect(peers, QUESTION)
