"""The other regions over HTTP: `cluster.regions.peers.Peers`, with their health by outcomes."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from actors.regions.peer_connection import PEER_TIMEOUTS, PeerConnection, PeerTimeouts
from cluster.balance.verdicts import peer_verdict
from cluster.clock import SYSTEM_CLOCK, Clock, Deadline
from cluster.config import Settings
from cluster.errors import InvalidArgument, Unavailable
from cluster.generation.generator import GenerationChunk, GenerationRequest
from cluster.mutations.requests import DocumentsPosition
from cluster.mutations.watermark import Watermark
from cluster.query.answers import AnswerEvent, AnswerRequest, AnswerResult
from cluster.query.caller import Caller
from cluster.query.request import Request
from cluster.query.search import SearchRequest, SearchResult
from cluster.regions.routing import RegionRouter
from cluster.regions.settings import RoutingPolicy
from cluster.regions.wire import (
    answer_call,
    generate_call,
    parse_answer_event,
    parse_chunk,
    parse_position,
    parse_search,
    reached_call,
    search_call,
)

RequestT = TypeVar("RequestT", bound=Request)
Loads = Callable[[], Mapping[str, float]]
"""The load of each region, from 0 to 1, as far as it is known."""


def _no_loads() -> Mapping[str, float]:
    return {}


class RegionPeers:
    """Asks the other regions of the settings, for this one. For one event loop.

    The owner calls `aclose` in the end.
    """

    def __init__(
        self,
        settings: Settings,
        region: str,
        *,
        rng: random.Random,
        loads: Loads = _no_loads,
        clock: Clock = SYSTEM_CLOCK,
        timeouts: PeerTimeouts = PEER_TIMEOUTS,
    ) -> None:
        self._region = region
        self._timeouts = timeouts
        self._loads = loads
        self._router = RegionRouter(settings.region_map(), now_s=clock.monotonic_s, rng=rng)
        # The connections are made in the event loop that first asks, and belong to it.
        self._connections: dict[str, PeerConnection] = {}

    def preferred(self, request: Request) -> str:
        return self._router.first(
            asked=self._region,
            caller=_caller(request),
            corpus=self._corpus(request),
            loads=self._known_loads(),
        )

    def candidates(self, request: Request) -> tuple[str, ...]:
        order = self._router.order(
            asked=self._region,
            caller=_caller(request),
            corpus=self._corpus(request),
            loads=self._known_loads(),
        )
        return tuple(name for name in order if name != self._region)

    def holders(self, request: SearchRequest) -> tuple[str, ...]:
        return self._router.nearest(self._region, corpus=self._corpus(request))

    async def search(self, region: str, request: SearchRequest, deadline: Deadline) -> SearchResult:
        deadline.check(f"a search was on its way to region {region!r}")
        call = search_call(request, deadline.remaining_s())
        try:
            with self._router.watched(region, peer_verdict):
                content_type, body = await self._connection(region).whole(call, deadline)
                return parse_search(content_type, body)
        except InvalidArgument as error:
            without = _as_known(request, error)
            if without is None:
                raise
        return await self.search(region, without, deadline)

    async def answer_events(
        self, region: str, request: AnswerRequest, deadline: Deadline
    ) -> AsyncGenerator[AnswerEvent, None]:
        deadline.check(f"a question was on its way to region {region!r}")
        call = answer_call(request, deadline.remaining_s())
        try:
            with self._router.watched(region, peer_verdict):
                async with aclosing(self._connection(region).events(call, deadline)) as events:
                    async for name, data in events:
                        event = parse_answer_event(name, data)
                        yield event
                        if isinstance(event, AnswerResult):
                            return
                raise _broke_off(region)
        except InvalidArgument as error:
            without = _as_known(request, error)
            if without is None:
                raise
        again = self.answer_events(region, without, deadline)
        async with aclosing(again) as answer:
            async for event in answer:
                yield event

    def generators(self, corpus: str | None) -> tuple[str, ...]:
        # Nearest to here, whoever asks: it is this region that waits for every piece.
        order, endpoints = self._router.nearest(self._region, corpus=corpus), self._router.endpoints
        return tuple(n for n in order if n != self._region and endpoints[n].generates)

    async def generate(
        self, region: str, release: int, request: GenerationRequest, deadline: Deadline
    ) -> AsyncGenerator[GenerationChunk, None]:
        deadline.check(f"a prompt was on its way to region {region!r}")
        call = generate_call(release, request, deadline.remaining_s())
        with self._router.watched(region, peer_verdict):
            async with aclosing(self._connection(region).events(call, deadline)) as events:
                async for name, data in events:
                    chunk = parse_chunk(name, data)
                    yield chunk
                    if chunk.finish_reason is not None:
                        return
            raise _broke_off(region)

    def homes(self, corpus: str) -> tuple[str, ...]:
        return self._router.nearest(self._region, corpus=corpus)

    async def reached(
        self, region: str, corpus: str, watermark: Watermark, deadline: Deadline
    ) -> DocumentsPosition:
        deadline.check(f"region {region!r} was asked how far it is")
        call = reached_call(corpus, watermark, deadline.remaining_s())
        with self._router.watched(region, peer_verdict):
            _, body = await self._connection(region).whole(call, deadline)
        return parse_position(body)

    async def aclose(self) -> None:
        """Closes all connections."""
        for connection in self._connections.values():
            await connection.aclose()
        self._connections.clear()

    def _corpus(self, request: Request) -> str | None:
        if isinstance(request, AnswerRequest) and not request.retrieve:
            return None
        return self._router.residency.meant(request.corpus)

    def _connection(self, region: str) -> PeerConnection:
        connection = self._connections.get(region)
        if connection is None:
            assert region != self._region, "a region asks itself without HTTP"
            endpoint = self._router.endpoints[region]
            connection = PeerConnection(endpoint, self._region, self._timeouts)
            self._connections[region] = connection
        return connection

    def _known_loads(self) -> Mapping[str, float] | None:
        return self._loads() if self._router.policy is RoutingPolicy.LEAST_LOADED else None


def _caller(request: Request) -> Caller:
    return replace(request.caller, user=request.user) if request.user else request.caller


def _as_known(request: RequestT, error: InvalidArgument) -> RequestT | None:
    """The request without the field that a region with an older version of Raygion does not know:
    it embeds texts itself, and has no documents but those of the release. None where the error is
    about something else.
    """
    if error.field == "embedded" and request.embedded is not None:
        return replace(request, embedded=None)
    if error.field == "documents" and request.documents is not None and request.release is not None:
        return replace(request, documents=None)
    return None


def _broke_off(region: str) -> Unavailable:
    return Unavailable(f"region {region!r} broke off before the end of its answer")
