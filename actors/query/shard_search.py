"""The middle of the query path: scatter to the shards, merge, fetch the texts of the final hits.

Searches of the same kind that are asked at the same time travel together
(`cluster.search.coalescing`): one call a shard for all of them, one merge, one fetch.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from actors.query.live_shard import LiveShard
from actors.query.passage_fetch import Fetched, PassageSource, fetch_passages
from actors.runtime.stopwatch import Stopwatch
from cluster.arrays import Float32Array
from cluster.clock import Clock, Deadline
from cluster.errors import DeadlineExceeded, RaygionError, Unavailable
from cluster.logs.context import log_scope
from cluster.query.filters import Filter, over_fields
from cluster.query.search import (
    DocumentsSeen,
    Hit,
    MergedHits,
    SearchEffort,
    ShardHits,
    ShardQuery,
)
from cluster.search.checks import BATCH_MAX, HITS_MAX, reply_too_large
from cluster.search.coalescing import Coalescer
from cluster.search.fanout import Gathered, ShardAccess, scatter
from cluster.shards.merge import merge_hits, padding
from cluster.vectors.checks import prepared
from cluster.vectors.metric import Metric

_IN_FLIGHT_MAX = 4
"""Batches of one kind under way at once, besides those that are late."""
_LATE_AFTER_S = 0.1
"""Time after which a batch is late, as long as the time that the shards take is unknown."""
_WAITING_MAX = 16 * BATCH_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchKind:
    """The properties that searches must share to travel as one batch."""

    corpus: str
    index_version: str
    metric: Metric
    top_k: int
    fields: tuple[str, ...] | None
    effort: SearchEffort
    passages: bool
    patience: int | None
    """`Patience.magnitude`; None where no shard may be missing. So no search is cut short by
    another one that waits for less than half as long."""
    filter_key: bytes
    filter: Filter | None = field(compare=False)
    shards: Sequence[ShardAccess] = field(compare=False)
    """Shards to ask, which may be a part of the corpus's shards; hits name a shard by its index
    here.
    """
    documents: DocumentsSeen | None = None
    """Live documents that the searches see; None: those of the release alone."""
    live: LiveShard | None = field(default=None, compare=False)
    """The shard of `documents`, which hits name by the number after the last one of `shards`. It
    alone has fields that the release does not have.
    """

    @property
    def filter_of_shards(self) -> Filter | None:
        if self.live is None or self.filter is None:
            return self.filter
        return over_fields(self.filter, self.live.schema)

    @property
    def fields_of_shards(self) -> tuple[str, ...] | None:
        if self.live is None or self.fields is None:
            return self.fields
        return tuple(name for name in self.fields if name in self.live.schema)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The result of one search."""

    results: tuple[tuple[Hit, ...], ...]
    arrays: MergedHits | None
    """Hits in place of `results` when no passages were asked for."""
    fell_back: tuple[bool, ...]
    """Same as in `SearchResult`."""
    gathered: Gathered
    timings_ms: dict[str, float]
    unfetched: MergedHits | None = None
    """The hits, where `results` lacks some: their passages did not fit into those of the batch."""

    @property
    def coverage(self) -> float:
        return self.gathered.coverage

    @property
    def first_error(self) -> RaygionError | None:
        return self.gathered.first_error

    def check_coverage(self, least: float, deadline: Deadline) -> None:
        """Raises Unavailable or DeadlineExceeded when too few shards answered."""
        if self.coverage >= least:
            return
        error = self.first_error
        if isinstance(error, DeadlineExceeded) or deadline.expired():
            raise DeadlineExceeded("time ran out before enough shards answered") from error
        raise Unavailable(
            f"coverage is {self.coverage:.2f}, but at least {least:.2f} was asked for"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """The time for which a search waits for shards that may be missing."""

    waits_s: float
    """Time from the request's arrival."""
    until: Deadline
    """The same, as a moment."""

    @property
    def magnitude(self) -> int:
        """The binary order of magnitude of `waits_s`."""
        return math.frexp(self.waits_s)[1]

    def ends_s(self, deadline: Deadline) -> float:
        """`until`, but some time from now on, within the time that is left until `deadline`:
        whatever has used up the time before, the shards that do answer need some."""
        left_s = deadline.remaining_s()
        return max(self.until.at_s, deadline.at_s - left_s + min(self.waits_s, 2 * left_s) / 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    vectors: Float32Array
    deadline: Deadline
    patience: Patience | None

    def ends_s(self) -> float:
        """Time at which the search is answered with the shards that have answered by then."""
        if self.patience is None:
            return self.deadline.at_s
        return self.patience.ends_s(self.deadline)


class ShardSearch:
    """Searches all shards of an index for vectors that were checked."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._coalescer: Coalescer[SearchKind, _Asked, Found] = Coalescer(
            self._run,
            size_max=BATCH_MAX,
            in_flight_max=_IN_FLIGHT_MAX,
            waiting_max=_WAITING_MAX,
            late_after_s=_late_after_s,
        )
        self._large = asyncio.Semaphore(1)
        """Held while passages are fetched that did not fit into those of a batch."""

    async def search(
        self,
        kind: SearchKind,
        vectors: Float32Array,
        deadline: Deadline,
        patience: Patience | None = None,
    ) -> Found:
        """One list of hits for each row of `vectors`, float32 [n, d].

        `patience`: that of `kind`. Raises DeadlineExceeded, Overloaded; InvalidArgument for more
        texts than a reply may hold. Missing shards are a number, `coverage`.
        """
        watch = Stopwatch.start(self._clock)
        asked = _Asked(vectors=vectors, deadline=deadline, patience=patience)
        try:
            found = await self._coalescer.submit(
                kind, asked, _size(len(vectors), kind.top_k), timeout_s=deadline.remaining_s()
            )
        except TimeoutError:
            raise DeadlineExceeded("time ran out before the shards answered") from None
        waited_ms = watch.total_ms() - sum(found.timings_ms.values())
        found.timings_ms["wait"] = max(0.0, waited_ms)
        if found.unfetched is not None:
            return await self._fetched_alone(kind, asked, found, found.unfetched)
        return found

    async def _fetched_alone(
        self, kind: SearchKind, asked: _Asked, found: Found, merged: MergedHits
    ) -> Found:
        """The same with its passages. One search at a time: its texts take much memory."""
        watch = Stopwatch.start(self._clock)
        try:
            async with asyncio.timeout(asked.deadline.remaining_s()), self._large:
                fetched = await self._fetch(kind, merged, [asked])
        except TimeoutError:
            raise DeadlineExceeded("time ran out before the texts were fetched") from None
        watch.lap("fetch")
        if fetched.num_whole < len(asked.vectors):
            raise reply_too_large()
        return replace(
            found,
            results=tuple(fetched.results),
            gathered=found.gathered.without(fetched.lost),
            timings_ms=found.timings_ms | watch.laps_ms,
            unfetched=None,
        )

    async def _run(self, kind: SearchKind, asked: list[_Asked]) -> list[Found]:
        # The log must not name the one request that has started the batch.
        with log_scope():
            return await self._answer(kind, asked)

    async def _answer(self, kind: SearchKind, asked: list[_Asked]) -> list[Found]:
        watch = Stopwatch.start(self._clock)
        vectors = asked[0].vectors
        if len(asked) > 1:
            vectors = np.concatenate([one.vectors for one in asked])
        vectors = prepared(vectors, kind.metric)
        query = ShardQuery(
            corpus=kind.corpus,
            index_version=kind.index_version,
            vectors=vectors,
            top_k=kind.top_k,
            filter=kind.filter_of_shards,
            effort=kind.effort,
            documents=kind.documents,
        )
        scattered = scatter(
            kind.shards,
            query,
            self._until(kind, asked),
            may_be_missing=kind.patience is not None,
        )
        if kind.live is None:
            gathered, live_hits = await scattered, None
        else:
            searched = kind.live.search(replace(query, filter=kind.filter))
            gathered, live_hits = await asyncio.gather(scattered, searched)
        watch.lap("scatter")
        all_hits = enumerate((*gathered.hits, live_hits))
        answered = [(i, hits) for i, hits in all_hits if hits is not None]
        merged = merge_hits(answered or [(-1, padding(len(vectors), 0))], kind.top_k)
        watch.lap("merge")
        fetched: Fetched | None = None
        if kind.passages:
            fetched = await self._fetch(kind, merged, asked)
            if len(asked) == 1 and fetched.num_whole < len(vectors):
                raise reply_too_large()
            gathered = gathered.without(fetched.lost)
        watch.lap("fetch")
        return _handed_out(asked, merged, fetched, gathered, watch)

    async def _fetch(self, kind: SearchKind, merged: MergedHits, asked: list[_Asked]) -> Fetched:
        sources: dict[int, PassageSource] = dict(enumerate(kind.shards))
        if kind.live is not None:
            sources[len(kind.shards)] = kind.live
        return await fetch_passages(
            sources,
            kind.index_version,
            merged,
            kind.fields_of_shards,
            self._until(kind, asked),
            may_be_missing=kind.patience is not None,
        )

    def _until(self, kind: SearchKind, asked: list[_Asked]) -> Deadline:
        """The deadline of the shards' answers: as long as any search of the batch has time, or,
        where shards may be missing, until the first search of the batch has to be answered.
        """
        moments_s = [one.ends_s() for one in asked]
        return Deadline(max(moments_s) if kind.patience is None else min(moments_s), self._clock)


def _late_after_s(kind: SearchKind) -> float:
    """Time after which a batch has taken longer than shards that answer usually take."""
    expected = (shard.replicas.late_after_s() for shard in kind.shards)
    return max((s for s in expected if s is not None), default=_LATE_AFTER_S)


def _size(num_vectors: int, top_k: int) -> int:
    """The size of a search in a batch, so that a batch has no more hits than a request may have."""
    return num_vectors * max(1, -(-top_k * BATCH_MAX // HITS_MAX))


def _fell_back(gathered: Sequence[ShardHits | None]) -> list[bool]:
    marks = [hits.fell_back for hits in gathered if hits is not None and hits.fell_back is not None]
    fell_back: list[bool] = np.logical_or.reduce(marks).tolist() if marks else []
    return fell_back


def _handed_out(
    asked: list[_Asked],
    merged: MergedHits,
    fetched: Fetched | None,
    gathered: Gathered,
    watch: Stopwatch,
) -> list[Found]:
    found = []
    start = 0
    fell_back = _fell_back(gathered.hits)
    for one in asked:
        end = start + len(one.vectors)
        is_whole = fetched is None or end <= fetched.num_whole
        found.append(
            Found(
                results=()
                if fetched is None or not is_whole
                else tuple(fetched.results[start:end]),
                arrays=merged.of_queries(start, end) if fetched is None else None,
                fell_back=tuple(fell_back[start:end]),
                gathered=gathered,
                timings_ms=dict(watch.laps_ms),
                unfetched=None if is_whole else merged.of_queries(start, end),
            )
        )
        start = end
    return found
