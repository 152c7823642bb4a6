"""The path of a query: pin a release, embed, scatter, merge, fetch, prompt, generate.

The same engine serves HTTP (in the gateway) and the Python client (in the region's front actor).
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

import numpy as np

from actors.answering import Answering
from actors.routes import Routes
from actors.shard_search import SearchKind, ShardSearch
from actors.stopwatch import Stopwatch
from actors.view_follower import ViewFollower
from cluster.answers import (
    AnswerEvent,
    AnswerRequest,
    AnswerResult,
    RegionSummary,
)
from cluster.canary import Lots
from cluster.checks import check_answer, check_retrieval, check_search, in_rows
from cluster.clock import Clock, Deadline
from cluster.fanout import ShardRoute
from cluster.filters import Filter, filter_key
from cluster.partitions import shards_to_ask
from cluster.region_view import CorpusView, RegionView, ReleaseView
from cluster.search import Float32Array, SearchRequest, SearchResult


class QueryEngine:
    """A `cluster.answers.QueryService` over the replicas, embedders and generators of one
    region.
    """

    def __init__(
        self, *, views: ViewFollower, routes: Routes, answering: Answering, clock: Clock
    ) -> None:
        self._views = views
        self._routes = routes
        self._answering = answering
        self._clock = clock
        self._shard_search = ShardSearch(clock)
        self._routed: RegionView | None = None
        self._lots = Lots()

    async def search(self, request: SearchRequest) -> SearchResult:
        """Raises InvalidArgument, Unavailable (coverage too low, nothing to serve), Overloaded,
        DeadlineExceeded.
        """
        watch = Stopwatch.start(self._clock)
        deadline = Deadline.after(request.timeout_s, self._clock)
        release = self._pin(request.release, request.user)
        if request.release is not None or not self._views.outcomes.counting:
            return await self._search(request, release, deadline, watch)
        with self._views.outcomes.search(request, release.number):
            return await self._search(request, release, deadline, watch)

    async def _search(
        self, request: SearchRequest, release: ReleaseView, deadline: Deadline, watch: Stopwatch
    ) -> SearchResult:
        corpus = release.corpus(request.corpus)
        request = in_rows(request, corpus)
        check_search(request, corpus)
        vectors = await self._vectors(request, release, corpus, deadline)
        watch.lap("embed")
        kind = SearchKind(
            corpus=corpus.corpus,
            index_version=corpus.index_version,
            metric=corpus.metric,
            top_k=request.top_k,
            fields=request.fields,
            effort=request.effort,
            passages=request.passages,
            partial_within_s=None if request.min_coverage >= 1.0 else request.timeout_s,
            filter_key=filter_key(request.filter),
            filter=request.filter,
            shards=self._shards(corpus, request.filter),
        )
        found = await self._shard_search.search(kind, vectors, deadline)
        found.check_coverage(request.min_coverage, deadline)
        return SearchResult(
            results=found.results,
            release=release.number,
            region=self._views.view.region,
            coverage=found.coverage,
            took_ms=watch.total_ms(),
            trace_id=request.trace_id or uuid.uuid4().hex,
            arrays=found.arrays,
            fell_back=found.fell_back,
            timings_ms={**watch.laps_ms, **found.timings_ms},
        )

    async def answer_events(self, request: AnswerRequest) -> AsyncGenerator[AnswerEvent, None]:
        """Retrieved, then tokens, then the AnswerResult; closing the iterator stops the model."""
        watch = Stopwatch.start(self._clock)
        check_answer(request)
        deadline = Deadline.after(request.timeout_s, self._clock)
        release = self._pin(request.release, request.user)
        if request.retrieve:
            check_retrieval(release.corpus(request.corpus))
        counted = request.release is None and self._views.outcomes.counting
        # Everything below is pinned to this one release, so that no answer mixes two.
        request = replace(
            request, release=release.number, trace_id=request.trace_id or uuid.uuid4().hex
        )
        events = self._events(request, release, deadline, watch)
        if counted:
            events = self._views.outcomes.answer(events, release.number, request.timeout_s)
        async with aclosing(events):
            async for event in events:
                yield event

    async def _events(
        self, request: AnswerRequest, release: ReleaseView, deadline: Deadline, watch: Stopwatch
    ) -> AsyncGenerator[AnswerEvent, None]:
        found = await self._retrieve(request) if request.retrieve else None
        events = self._answering.events(
            request,
            release=release,
            region=self._views.view.region,
            found=found,
            deadline=deadline,
            elapsed_ms=watch.total_ms,
        )
        async with aclosing(events):
            async for event in events:
                yield event

    async def answer(self, request: AnswerRequest) -> AnswerResult:
        result: AnswerResult | None = None
        async for event in self.answer_events(request):
            if isinstance(event, AnswerResult):
                result = event
        assert result is not None, "a stream of answer events ends with the result"
        return result

    async def status(self) -> RegionSummary:
        """Raises Unavailable while the coordinator is away; serving goes on without it."""
        return await self._views.status()

    def _shards(self, corpus: CorpusView, filter: Filter | None) -> Sequence[ShardRoute]:
        """The shards that can have a match."""
        shards = self._routes.shards(corpus)
        if corpus.partition_by is None or filter is None:
            return shards
        return [shards[n] for n in shards_to_ask(filter, corpus.partition_by, len(shards))]

    def _pin(self, number: int | None, user: str) -> ReleaseView:
        view = self._views.view
        if view is not self._routed:
            self._routes.follow(view)
            self._routed = view
        return view.pin(number, self._clock.wall_ms(), user=user, lot=self._lots.next())

    async def _retrieve(self, request: AnswerRequest) -> SearchResult:
        return await self.search(
            SearchRequest(
                corpus=request.corpus,
                queries=(request.question,),
                top_k=request.top_k,
                filter=request.filter,
                fields=(),
                timeout_s=request.timeout_s,
                min_coverage=request.min_coverage,
                release=request.release,
                trace_id=request.trace_id,
            )
        )

    async def _vectors(
        self, request: SearchRequest, release: ReleaseView, corpus: CorpusView, deadline: Deadline
    ) -> Float32Array:
        vectors = request.vectors
        if vectors is None:
            texts = request.queries or ()
            embedder = self._routes.embedder(release)
            vectors = await embedder.ask(lambda replica, _: replica.embed(texts), deadline)
        return np.ascontiguousarray(vectors, dtype=np.float32)
