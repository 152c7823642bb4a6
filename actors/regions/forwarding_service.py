"""Answers a region's callers as they demand: from here, or by forwarding a request to another
region.

    request --> here first? --> decide: serve, read the log, wait --> the query engine
                  |                        | not here, or it failed
                  `------> another region <'    once: over there it is not sent on

`actors.regions.settling` keeps what the request demands.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from actors.regions.quorum_round import QuorumRounds
from actors.regions.settling import DocumentsSource, KnowledgeSource, NotHere, Settling, Sleep
from cluster.clock import Clock, Deadline
from cluster.errors import (
    Corrupt,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    NotYet,
    Overloaded,
    RaygionError,
    Unavailable,
)
from cluster.logs.events import EventLog
from cluster.query.answers import AnswerEvent, AnswerRequest, EmbeddingService, Token
from cluster.query.read_consistency import ConsistencyLevel, ReadConsistency
from cluster.query.request import Request
from cluster.query.search import EmbeddingResult, SearchRequest, SearchResult
from cluster.regions.divergence import FoundDifference
from cluster.regions.peers import Peers
from cluster.regions.quorum import seen_by

log = EventLog(__name__)

RequestT = TypeVar("RequestT", bound=Request)
FORWARDS_MAX = 2
"""Other regions that are asked for one request, one after the other, while there is time."""
_MAY_GO_ON = (Unavailable, Overloaded, NotYet, NotFound, Corrupt)
"""Failures of this region that another one need not share."""


class ForwardingService:
    """A `cluster.query.answers.EmbeddingService` that keeps what requests demand.

    Raises what the engine raises; NotYet when no region that may be asked can meet the demand,
    Unavailable when it cannot be known, InvalidArgument for demands that make no sense.
    """

    def __init__(
        self,
        *,
        region: str,
        engine: EmbeddingService,
        views: KnowledgeSource,
        documents: DocumentsSource | None = None,
        peers: Peers,
        clock: Clock,
        quorum_pause_s: float,
        sleep: Sleep = asyncio.sleep,
        differed: Callable[[FoundDifference], None] = lambda _: None,
    ) -> None:
        """`documents` of None: there are none but those of the releases. `quorum_pause_s`: time
        after which regions that differ are asked again; by then their clocks agree on what is
        current. `differed` is told of regions that a search by quorum found to differ.
        """
        self._region = region
        self._engine = engine
        self._settling = Settling(views=views, documents=documents, clock=clock, sleep=sleep)
        self._peers = peers
        self._clock = clock
        self._quorum = QuorumRounds(
            region=region,
            ask=self._vote,
            holders=peers.holders,
            pause_s=quorum_pause_s,
            sleep=sleep,
            differed=differed,
        )

    async def search(self, request: SearchRequest) -> SearchResult:
        deadline = Deadline.after(request.timeout_s, self._clock)
        if request.consistency.level is ConsistencyLevel.QUORUM and not request.forwarded_by:
            agreed = await self._quorum.search(await self.embedded(request), deadline)
            return self._asked_here(agreed, deadline, request)
        failure: RaygionError | None = None
        for region, is_last in self._order(request):
            try:
                result = await self._search_at(region, request, deadline, is_last=is_last)
            except (RaygionError, NotHere) as error:
                failure = self._first_failure(failure, error, deadline)
            else:
                # Most results come from here, and are what they should be.
                return (
                    result
                    if region == self._region
                    else self._asked_here(result, deadline, request)
                )
        assert failure is not None, "some region has been asked"
        raise failure

    async def answer_events(self, request: AnswerRequest) -> AsyncGenerator[AnswerEvent, None]:
        """Retrieved, then tokens, then the AnswerResult; closing the iterator stops the model. Once
        the first event is out, the answer is not begun again elsewhere.
        """
        deadline = Deadline.after(request.timeout_s, self._clock)
        order: Iterable[tuple[str, bool]] = self._order(request)
        if request.consistency.level is ConsistencyLevel.QUORUM and not request.forwarded_by:
            request, regions = await self._agreed_on(request, deadline)
            order = [(region, region == regions[-1]) for region in regions]
        failure: RaygionError | None = None
        for region, is_last in order:
            begun = False
            try:
                async with aclosing(await self._events_at(region, request, deadline)) as events:
                    first = await self._first(region, events, deadline, is_last=is_last)
                    begun = True
                    yield self._event_asked_here(first)
                    async for event in events:
                        yield self._event_asked_here(event)
                return
            except (RaygionError, NotHere) as error:
                if begun:
                    raise
                failure = self._first_failure(failure, error, deadline)
        assert failure is not None, "some region has been asked"
        raise failure

    async def embed(self, request: SearchRequest, dimension: int | None = None) -> EmbeddingResult:
        """Always made here: other regions have the same embedder of the same release."""
        deadline = Deadline.after(request.timeout_s, self._clock)
        try:
            settled = await self._settling.settled(request, deadline, live=False)
            return await self._engine.embed(settled, dimension)
        except NotHere as refused:
            raise refused.error from None

    async def embedded(self, request: SearchRequest) -> SearchRequest:
        """Takes half of the request's time at most."""
        deadline = Deadline.after(request.timeout_s / 2, self._clock)
        try:
            settled = await self._settling.settled(request, deadline, live=False)
            made = await self._engine.embedded(settled)
        except (RaygionError, NotHere) as error:
            log.debug(
                "texts.embedded_apart", "each region embeds the texts itself: {error}", error=error
            )
            return request
        return replace(request, embedded=made.embedded)

    # Where.

    def _order(self, request: Request) -> Iterator[tuple[str, bool]]:
        """The regions to ask, this one among them, and whether each is the last one. The others are
        looked up when it comes to it: before, this one does not count as the last.
        """
        if request.forwarded_by:
            yield self._region, True
            return
        preferred = self._peers.preferred(request)
        yield preferred, False
        forwards = 0
        if preferred != self._region:
            yield self._region, False
            forwards = 1
        others = [name for name in self._peers.candidates(request) if name != preferred]
        asked = others[: FORWARDS_MAX - forwards]
        for left, name in zip(reversed(range(len(asked))), asked, strict=True):
            yield name, left == 0

    def _first_failure(
        self, failure: RaygionError | None, error: RaygionError | NotHere, deadline: Deadline
    ) -> RaygionError:
        """The first failure, which the caller gets if no other region answers. Raises the error if
        no other region need be asked.
        """
        if failure is None:
            if isinstance(error, RaygionError) and not isinstance(error, _MAY_GO_ON):
                raise error
            failure = error.error if isinstance(error, NotHere) else error
        if deadline.expired():
            raise failure
        return failure

    # How.

    async def _search_at(
        self, region: str, request: SearchRequest, deadline: Deadline, *, is_last: bool = True
    ) -> SearchResult:
        """Another region that is not the last one has half of the time: one that hangs leaves the
        next one its chance.
        """
        if region == self._region:
            return await self._engine.search(await self._settling.settled(request, deadline))
        if is_last:
            return await self._peers.search(region, request, deadline)
        half = Deadline.after(deadline.remaining_s() / 2, deadline.clock)
        try:
            return await self._peers.search(region, request, half)
        except DeadlineExceeded as error:
            if deadline.expired():
                raise
            raise Unavailable(error.message) from error

    async def _vote(self, region: str, request: SearchRequest, deadline: Deadline) -> SearchResult:
        try:
            return await self._search_at(region, request, deadline)
        except NotHere as refused:
            raise refused.error from None

    async def _events_at(
        self, region: str, request: AnswerRequest, deadline: Deadline
    ) -> AsyncGenerator[AnswerEvent, None]:
        if region == self._region:
            settled = await self._settling.settled(request, deadline, live=request.retrieve)
            return self._engine.answer_events(settled)
        return self._peers.answer_events(region, request, deadline)

    async def _first(
        self,
        region: str,
        events: AsyncGenerator[AnswerEvent, None],
        deadline: Deadline,
        *,
        is_last: bool,
    ) -> AnswerEvent:
        """Another region that is not the last one must begin within half of the time."""
        leaves_time = region != self._region and not is_last
        try:
            async with asyncio.timeout(deadline.remaining_s() / 2 if leaves_time else None):
                return await anext(events)
        except TimeoutError:
            raise Unavailable(f"region {region!r} did not begin to answer in time") from None

    async def _agreed_on(
        self, request: AnswerRequest, deadline: Deadline
    ) -> tuple[AnswerRequest, tuple[str, ...]]:
        """The request for the release whose passages a majority finds, and who finds them."""
        if not request.retrieve:
            raise InvalidArgument(
                "`quorum` compares passages: ask for an answer with retrieval", "consistency"
            )
        search = await self.embedded(request.retrieval())
        found, regions = await self._quorum.agree(search, deadline)
        session = ReadConsistency(session=request.consistency.session)
        pinned = replace(
            request,
            embedded=search.embedded,
            release=found.release,
            consistency=session.having_seen(seen_by([found])),
            timeout_s=deadline.remaining_s(),
        )
        return pinned, regions

    def _asked_here(
        self, result: SearchResult, deadline: Deadline, request: SearchRequest
    ) -> SearchResult:
        took_ms = (request.timeout_s - deadline.remaining_s()) * 1000.0
        return replace(result.received_by(self._region), took_ms=took_ms)

    def _event_asked_here(self, event: AnswerEvent) -> AnswerEvent:
        if isinstance(event, Token) or event.region == self._region:
            return event
        return event.received_by(self._region)
