"""The path of a query: pin a release, embed, scatter, merge, fetch, prompt, generate.

The same engine serves HTTP (in the gateway) and the Python client (in the region's front actor).
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

import numpy as np

from actors.query.answering import Answering
from actors.query.live_shard import LiveShard
from actors.query.release_uses import ReleaseUses
from actors.query.replica_sets import ReplicaSets
from actors.query.shard_search import Patience, SearchKind, ShardSearch
from actors.query.view_follower import ViewFollower
from actors.runtime.stopwatch import Stopwatch
from cluster.arrays import Float32Array
from cluster.canary.board import Lots
from cluster.canary.counts import OutcomeCounts
from cluster.clock import Clock, Deadline
from cluster.deltas.delta import DeltaView
from cluster.logs.context import bind
from cluster.query.answers import AnswerEvent, AnswerRequest
from cluster.query.filters import Filter, filter_key
from cluster.query.request import Embedded, Request
from cluster.query.search import EmbeddingResult, SearchRequest, SearchResult
from cluster.query.terms import BASE
from cluster.search.checks import (
    check_answer,
    check_embedding,
    check_retrieval,
    check_search,
    in_rows,
)
from cluster.search.fanout import ShardAccess
from cluster.serving.consistency import PinnedRelease
from cluster.serving.documents import DocumentsKnowledge
from cluster.serving.view import CorpusView, RegionView, ReleaseView
from cluster.shards.partitions import shards_to_ask
from cluster.vectors.checks import check_vectors


class LiveViews(Protocol):
    """The live documents of this process, which `actors.query.document_views` implements."""

    def view(self, release: ReleaseView, corpus: CorpusView) -> DeltaView | None: ...


class QueryEngine:
    """A `cluster.query.answers.EmbeddingService` over the replicas, embedders and generators of one
    region.
    """

    def __init__(
        self,
        *,
        views: ViewFollower,
        uses: ReleaseUses,
        outcomes: OutcomeCounts,
        replica_sets: ReplicaSets,
        answering: Answering,
        clock: Clock,
        documents: LiveViews | None = None,
    ) -> None:
        """`documents` of None: there are none but those of the releases."""
        self._views = views
        self._uses = uses
        self._outcomes = outcomes
        self._replica_sets = replica_sets
        self._answering = answering
        self._clock = clock
        self._documents = documents
        self._shard_search = ShardSearch(clock)
        self._routed: RegionView | None = None
        self._lots = Lots()

    async def search(self, request: SearchRequest) -> SearchResult:
        """Raises InvalidArgument, NotFound (of the named release), Unavailable (coverage too low,
        nothing to serve), Overloaded, DeadlineExceeded.
        """
        watch = Stopwatch.start(self._clock)
        deadline = Deadline.after(request.timeout_s, self._clock)
        pinned = self._pin(request)
        with self._uses.during(pinned.release.number):
            if request.release is not None or not self._outcomes.counting:
                return await self._search(request, pinned, deadline, watch)
            with self._outcomes.search(request, pinned.release.number):
                return await self._search(request, pinned, deadline, watch)

    async def _search(
        self, request: SearchRequest, pinned: PinnedRelease, deadline: Deadline, watch: Stopwatch
    ) -> SearchResult:
        release = pinned.release
        corpus = release.corpus(request.corpus)
        request = in_rows(request, corpus)
        # Taken once: in all steps the search sees these documents, whatever is written meanwhile.
        live = self._live(request, release, corpus)
        check_search(request, corpus if live is None else live.with_new_fields(corpus))
        if live is not None:
            pinned = self._with_documents(pinned, corpus, live.view)
            live = live if live.view.num_documents else None
        vectors = await self._vectors(request, release, corpus, deadline)
        watch.lap("embed")
        patience = _patience(request, deadline)
        kind = SearchKind(
            corpus=corpus.corpus,
            index_version=corpus.index_version,
            metric=corpus.metric,
            top_k=request.top_k,
            fields=request.fields,
            effort=request.effort,
            passages=request.passages,
            patience=None if patience is None else patience.magnitude,
            filter_key=filter_key(request.filter),
            filter=request.filter,
            shards=self._shards(corpus, request.filter),
            documents=None if live is None else live.seen,
            live=live,
        )
        found = await self._shard_search.search(kind, vectors, deadline, patience)
        found.check_coverage(request.min_coverage, deadline)
        return SearchResult(
            results=found.results,
            provenance=pinned.provenance(
                region=self._views.view.region,
                trace_id=request.trace_id or uuid.uuid4().hex,
                coverage=found.coverage,
            ),
            took_ms=watch.total_ms(),
            arrays=found.arrays,
            fell_back=found.fell_back,
            timings_ms={**watch.laps_ms, **found.timings_ms},
        )

    async def embed(self, request: SearchRequest, dimension: int | None = None) -> EmbeddingResult:
        """The vectors of the request's texts, as `cluster.query.answers.EmbeddingService` promises.
        Raises the errors of `search`.
        """
        deadline = Deadline.after(request.timeout_s, self._clock)
        pinned = self._pin(request)
        release = pinned.release
        with self._uses.during(release.number):
            check_embedding(request, release, dimension)
            embedders = self._replica_sets.embedders(release)
            made = await embedders.embed_counted(request.queries or (), deadline)
        return EmbeddingResult(
            embedded=Embedded(model=release.embedder or "", vectors=made.vectors),
            num_tokens=made.num_tokens,
            provenance=pinned.provenance(
                region=self._views.view.region, trace_id=request.trace_id or uuid.uuid4().hex
            ),
        )

    async def embedded(self, request: SearchRequest) -> SearchRequest:
        """The request with its vectors, as `cluster.query.answers.EmbeddingService` promises.
        Raises the errors of `search`.
        """
        if request.queries is None:
            return request
        deadline = Deadline.after(request.timeout_s, self._clock)
        release = self._pin(request).release
        if release.embedder is None:
            return request
        with self._uses.during(release.number):
            corpus = release.corpus(request.corpus)
            check_search(request, corpus)
            vectors = await self._vectors(request, release, corpus, deadline)
        return replace(request, embedded=Embedded(model=release.embedder, vectors=vectors))

    async def answer_events(self, request: AnswerRequest) -> AsyncGenerator[AnswerEvent, None]:
        """Retrieved, then tokens, then the AnswerResult; closing the iterator stops the model."""
        watch = Stopwatch.start(self._clock)
        check_answer(request)
        deadline = Deadline.after(request.timeout_s, self._clock)
        pinned = self._pin(request)
        release = pinned.release
        if request.retrieve:
            check_retrieval(release.corpus(request.corpus))
        counted = request.release is None and self._outcomes.counting
        trace_id = request.trace_id or uuid.uuid4().hex
        # Everything below is pinned to this one release, so that no answer mixes two.
        request = replace(request, release=release.number, trace_id=trace_id)
        events = self._answering.events(
            request,
            release=release,
            provenance=pinned.provenance(region=self._views.view.region, trace_id=trace_id),
            search=self.search,
            deadline=deadline,
            elapsed_ms=watch.total_ms,
        )
        if counted:
            events = self._outcomes.answer(events, release.number, request.timeout_s)
        with self._uses.during(release.number):
            async with aclosing(events):
                async for event in events:
                    yield event

    def _live(
        self, request: SearchRequest, release: ReleaseView, corpus: CorpusView
    ) -> LiveShard | None:
        """The live documents as they are now; None where there are none, or none are wanted."""
        if self._documents is None or request.documents == BASE:
            return None
        view = self._documents.view(release, corpus)
        if view is None:
            return None
        schema = corpus.metadata_schema
        new = tuple(name for name in request.fields or () if name not in schema)
        return LiveShard(view, schema, new)

    def _with_documents(
        self, pinned: PinnedRelease, corpus: CorpusView, view: DeltaView
    ) -> PinnedRelease:
        known = DocumentsKnowledge(watermark=view.watermark, read_ms=view.read_ms)
        skew_max_ms = self._views.knowledge.skew_max_ms
        staleness_ms = known.staleness_ms(self._clock.wall_ms(), skew_max_ms)
        return pinned.with_documents(corpus.corpus, known, staleness_ms)

    def _shards(self, corpus: CorpusView, filter: Filter | None) -> Sequence[ShardAccess]:
        """The shards that can have a match."""
        shards = self._replica_sets.shards(corpus)
        if corpus.partition_by is None or filter is None:
            return shards
        return [shards[n] for n in shards_to_ask(filter, corpus.partition_by, len(shards))]

    def _pin(self, request: Request) -> PinnedRelease:
        knowledge = self._views.knowledge
        view = knowledge.view
        if view is not self._routed:
            self._replica_sets.follow(view)
            self._answering.follow(view)
            self._routed = view
        pinned = knowledge.pin(
            request.release,
            self._clock.wall_ms(),
            user=request.user,
            lot=self._lots.next(),
            not_before=request.not_before,
            documents_floor=request.documents_floor,
        )
        bind(release=pinned.release.number)
        return pinned

    async def _vectors(
        self, request: SearchRequest, release: ReleaseView, corpus: CorpusView, deadline: Deadline
    ) -> Float32Array:
        vectors, embedded = request.vectors, request.embedded
        if embedded is not None and embedded.model == release.embedder:
            vectors = check_vectors(embedded.vectors, corpus.dimension, field="embedded.vectors")
        elif vectors is None:
            embedders = self._replica_sets.embedders(release)
            vectors = await embedders.embed(request.queries or (), deadline)
        return np.ascontiguousarray(vectors, dtype=np.float32)


def _patience(request: SearchRequest, deadline: Deadline) -> Patience | None:
    """None where no shard may be missing. Counts from the arrival of the request, however long its
    texts took to embed.
    """
    if request.min_coverage >= 1.0:
        return None
    waits_s = request.partial_share * request.timeout_s
    until = Deadline(deadline.at_s - request.timeout_s + waits_s, deadline.clock)
    return Patience(waits_s=waits_s, until=until)
