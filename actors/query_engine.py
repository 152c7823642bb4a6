"""The path of a query: pin a release, embed, scatter, merge, fetch, prompt, generate.

The same engine serves HTTP (in the gateway) and the Python client (in the region's front actor).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from actors.answering import Answering
from actors.routes import Routes
from actors.view_follower import ViewFollower
from cluster.answers import (
    AnswerEvent,
    AnswerRequest,
    AnswerResult,
    RegionSummary,
)
from cluster.checks import check_answer, check_retrieval, check_search
from cluster.clock import Clock, Deadline
from cluster.errors import DeadlineExceeded, Unavailable
from cluster.fanout import Gathered, ShardReplica, scatter
from cluster.merge import merge_hits
from cluster.region_view import CorpusView, RegionView, ReleaseView
from cluster.replica_set import ReplicaSet
from cluster.search import (
    Float32Array,
    Hit,
    MergedHits,
    Passages,
    SearchRequest,
    SearchResult,
    ShardQuery,
)
from cluster.vectors import prepared

_SCATTER_SHARE = 0.8
"""Of the time that is left, for searching the shards of an answer that may be incomplete."""


@dataclass(slots=True)
class Stopwatch:
    """Splits the time of a request into named stages, in milliseconds."""

    clock: Clock
    started_s: float
    lapped_s: float
    laps_ms: dict[str, float] = field(default_factory=dict)

    @classmethod
    def start(cls, clock: Clock) -> Stopwatch:
        now_s = clock.monotonic_s()
        return cls(clock, now_s, now_s)

    def lap(self, stage: str) -> None:
        now_s = self.clock.monotonic_s()
        self.laps_ms[stage] = (now_s - self.lapped_s) * 1000
        self.lapped_s = now_s

    def total_ms(self) -> float:
        return (self.clock.monotonic_s() - self.started_s) * 1000


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
        self._routed: RegionView | None = None

    async def search(self, request: SearchRequest) -> SearchResult:
        """Raises InvalidArgument, Unavailable (coverage too low, nothing to serve), Overloaded,
        DeadlineExceeded.
        """
        watch = Stopwatch.start(self._clock)
        deadline = Deadline.after(request.timeout_s, self._clock)
        release = self._pin(request.release)
        corpus = release.corpus(request.corpus)
        check_search(request, corpus)
        vectors = await self._vectors(request, release, corpus, deadline)
        watch.lap("embed")
        shards = self._routes.shards(corpus)
        query = ShardQuery(
            corpus=corpus.corpus,
            index_version=corpus.index_version,
            vectors=vectors,
            top_k=request.top_k,
            filter=request.filter,
        )
        gathered = await scatter(shards, query, self._scatter_deadline(request, deadline))
        watch.lap("scatter")
        _check_coverage(gathered, request.min_coverage, deadline)
        answered = [(i, part) for i, part in enumerate(gathered.parts) if part is not None]
        merged = merge_hits(answered, request.top_k)
        watch.lap("merge")
        results = await self._fetch(merged, shards, corpus, request.fields, deadline)
        watch.lap("fetch")
        return SearchResult(
            results=results,
            release=release.number,
            region=self._views.view.region,
            coverage=gathered.coverage,
            took_ms=watch.total_ms(),
            trace_id=request.trace_id or uuid.uuid4().hex,
            timings_ms=watch.laps_ms,
        )

    async def answer_events(self, request: AnswerRequest) -> AsyncGenerator[AnswerEvent, None]:
        """Retrieved, then tokens, then the AnswerResult; closing the iterator stops the model."""
        watch = Stopwatch.start(self._clock)
        check_answer(request)
        deadline = Deadline.after(request.timeout_s, self._clock)
        release = self._pin(request.release)
        if request.retrieve:
            check_retrieval(release.corpus(request.corpus))
        # Everything below is pinned to this one release, so that no answer mixes two.
        request = replace(
            request, release=release.number, trace_id=request.trace_id or uuid.uuid4().hex
        )
        found = await self._retrieve(request) if request.retrieve else None
        events = self._answering.events(
            request,
            release=release,
            region=self._views.view.region,
            found=found,
            deadline=deadline,
            elapsed_ms=watch.total_ms,
        )
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

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

    def _scatter_deadline(self, request: SearchRequest, deadline: Deadline) -> Deadline:
        """Shards that may be missing must not use up the time in which the hits are fetched."""
        if request.min_coverage >= 1.0:
            return deadline
        return Deadline.after(_SCATTER_SHARE * deadline.remaining_s(), self._clock)

    def _pin(self, number: int | None) -> ReleaseView:
        view = self._views.view
        if view is not self._routed:
            self._routes.retain(view)
            self._routed = view
        return view.pin(number, self._clock.wall_ms())

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
        return prepared(np.ascontiguousarray(vectors, dtype=np.float32), corpus.metric)

    async def _fetch(
        self,
        merged: MergedHits,
        shards: Sequence[ReplicaSet[ShardReplica]],
        corpus: CorpusView,
        fields: tuple[str, ...] | None,
        deadline: Deadline,
    ) -> tuple[tuple[Hit, ...], ...]:
        """Texts and metadata of the final hits only, one call for each shard that has some."""
        flat_shards, flat_rows = merged.shards.ravel(), merged.rows.ravel()
        places = {
            int(s): np.flatnonzero(flat_shards == s) for s in np.unique(flat_shards) if s >= 0
        }

        async def fetch(shard: int, where: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Passages:
            rows = flat_rows[where]
            return await shards[shard].ask(
                lambda r, t: r.passages(corpus.index_version, rows, fields, t),
                deadline,
                learn_speed=False,
            )

        fetched = await asyncio.gather(*(fetch(shard, where) for shard, where in places.items()))
        hits: list[Hit | None] = [None] * merged.ids.size
        ids, scores = merged.ids.ravel().tolist(), merged.scores.ravel().tolist()
        for where, passages in zip(places.values(), fetched, strict=True):
            found = zip(where.tolist(), passages.texts, passages.metadata, strict=True)
            for place, text, metadata in found:
                hits[place] = Hit(
                    id=ids[place].decode(), score=scores[place], text=text, metadata=metadata
                )
        k = merged.ids.shape[1]
        rows_of_hits = (hits[start : start + k] for start in range(0, len(hits), k or 1))
        results = tuple(tuple(h for h in row if h is not None) for row in rows_of_hits)
        return results or ((),) * merged.ids.shape[0]


def _check_coverage(gathered: Gathered, least: float, deadline: Deadline) -> None:
    if gathered.coverage >= least:
        return
    error = gathered.first_error
    if isinstance(error, DeadlineExceeded) or deadline.expired():
        raise DeadlineExceeded("time ran out before enough shards answered") from error
    raise Unavailable(
        f"coverage is {gathered.coverage:.2f}, but at least {least:.2f} was asked for"
    ) from error
