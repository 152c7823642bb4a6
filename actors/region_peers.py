"""The other regions over HTTP: `cluster.region_peers.Peers`, with their health by outcomes."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import replace

from actors.region_link import RegionLink
from cluster.answers import AnswerEvent, AnswerRequest, AnswerResult
from cluster.caller import ANYONE, Caller
from cluster.clock import SYSTEM_CLOCK, Clock, Deadline
from cluster.config import Settings
from cluster.errors import DeadlineExceeded, InvalidArgument, Overloaded, RaygionError, Unavailable
from cluster.generation import GenerationChunk, GenerationRequest
from cluster.region_routing import RegionRouter
from cluster.region_settings import RoutingPolicy
from cluster.region_wire import (
    answer_call,
    generate_call,
    parse_answer_event,
    parse_chunk,
    parse_search,
    search_call,
)
from cluster.search import SearchRequest, SearchResult

Loads = Callable[[], Mapping[str, float]]
"""The load of each region, from 0 to 1, as far as it is known."""
_PATIENCE_S = 1.0
"""A region that took longer than this, and all the time that there was, has failed to answer. With
less time, the caller was in too much of a hurry to tell.
"""


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
    ) -> None:
        self._region = region
        self._loads = loads
        self._clock = clock
        self._router = RegionRouter(settings.region_map(), now_s=clock.monotonic_s, rng=rng)
        # The connections are made in the event loop that first asks, and belong to it.
        self._links: dict[str, RegionLink] = {}

    def preferred(self, request: SearchRequest | AnswerRequest) -> str:
        return self._router.first(
            asked=self._region,
            caller=_caller(request),
            corpus=self._corpus(request),
            loads=self._known_loads(),
        )

    def candidates(self, request: SearchRequest | AnswerRequest) -> tuple[str, ...]:
        order = self._router.order(
            asked=self._region,
            caller=_caller(request),
            corpus=self._corpus(request),
            loads=self._known_loads(),
        )
        return tuple(name for name in order if name != self._region)

    def holders(self, request: SearchRequest) -> tuple[str, ...]:
        return self._router.order(
            asked=self._region,
            caller=ANYONE,
            corpus=self._corpus(request),
            policy=RoutingPolicy.LOCAL,
        )

    async def search(self, region: str, request: SearchRequest, deadline: Deadline) -> SearchResult:
        deadline.check(f"a search was on its way to region {region!r}")
        call = search_call(request, deadline.remaining_s())
        try:
            with self._watched(region):
                content_type, body = await self._link(region).whole(call, deadline)
                return parse_search(content_type, body)
        except InvalidArgument as error:
            if not _knows_no_vectors(error, request):
                raise
        return await self.search(region, replace(request, embedded=None), deadline)

    async def answer_events(
        self, region: str, request: AnswerRequest, deadline: Deadline
    ) -> AsyncGenerator[AnswerEvent, None]:
        deadline.check(f"a question was on its way to region {region!r}")
        call = answer_call(request, deadline.remaining_s())
        try:
            with self._watched(region):
                async with aclosing(self._link(region).events(call, deadline)) as events:
                    async for name, data in events:
                        event = parse_answer_event(name, data)
                        yield event
                        if isinstance(event, AnswerResult):
                            return
                raise _broke_off(region)
        except InvalidArgument as error:
            if not _knows_no_vectors(error, request):
                raise
        again = self.answer_events(region, replace(request, embedded=None), deadline)
        async with aclosing(again) as answer:
            async for event in answer:
                yield event

    def generators(self, corpus: str | None) -> tuple[str, ...]:
        # Nearest to here, whoever asks: it is this region that waits for every piece.
        order = self._router.order(
            asked=self._region,
            caller=ANYONE,
            corpus=corpus,
            needs_generator=True,
            policy=RoutingPolicy.LOCAL,
        )
        return tuple(name for name in order if name != self._region)

    async def generate(
        self, region: str, release: int, request: GenerationRequest, deadline: Deadline
    ) -> AsyncGenerator[GenerationChunk, None]:
        deadline.check(f"a prompt was on its way to region {region!r}")
        call = generate_call(release, request, deadline.remaining_s())
        with self._watched(region):
            async with aclosing(self._link(region).events(call, deadline)) as events:
                async for name, data in events:
                    chunk = parse_chunk(name, data)
                    yield chunk
                    if chunk.finish_reason is not None:
                        return
            raise _broke_off(region)

    async def aclose(self) -> None:
        """Closes all connections."""
        for link in self._links.values():
            await link.aclose()
        self._links.clear()

    def _corpus(self, request: SearchRequest | AnswerRequest) -> str | None:
        if isinstance(request, AnswerRequest) and not request.retrieve:
            return None
        return self._router.residency.meant(request.corpus)

    def _link(self, region: str) -> RegionLink:
        link = self._links.get(region)
        if link is None:
            assert region != self._region, "a region asks itself without HTTP"
            link = RegionLink(self._router.sites[region], forwarded_by=self._region)
            self._links[region] = link
        return link

    def _known_loads(self) -> Mapping[str, float] | None:
        return self._loads() if self._router.policy is RoutingPolicy.LEAST_LOADED else None

    @contextmanager
    def _watched(self, region: str) -> Iterator[None]:
        """Tells the router how the request that the block makes has ended."""
        began_s = self._clock.monotonic_s()
        probe = self._router.began(region)
        try:
            yield
        except Overloaded:
            self._router.left(region, probe=probe)
            raise
        except DeadlineExceeded:
            if self._clock.monotonic_s() - began_s < _PATIENCE_S:
                self._router.left(region, probe=probe)
            else:
                self._router.failed(region, probe=probe)
            raise
        except Unavailable:
            self._router.failed(region, probe=probe)
            raise
        except RaygionError:
            # It works, and says that it will not.
            self._router.succeeded(region, probe=probe)
            raise
        except BaseException:
            self._router.left(region, probe=probe)
            raise
        else:
            self._router.succeeded(region, probe=probe)


def _caller(request: SearchRequest | AnswerRequest) -> Caller:
    return replace(request.caller, user=request.user) if request.user else request.caller


def _knows_no_vectors(error: InvalidArgument, request: SearchRequest | AnswerRequest) -> bool:
    """Whether that region has an older version of Raygion, which does not know the field for the
    vectors of texts, and embeds them itself.
    """
    return request.embedded is not None and error.field == "embedded"


def _broke_off(region: str) -> Unavailable:
    return Unavailable(f"region {region!r} broke off before the end of its answer")
