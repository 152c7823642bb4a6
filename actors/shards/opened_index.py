"""An index version that is open in a replica, and what its searches cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from actors.shards.hidden_documents import HiddenDocuments
from actors.shards.index import ShardIndex
from cluster.arrays import Mask
from cluster.artifacts.files import ArtifactFile
from cluster.clock import SYSTEM_CLOCK
from cluster.query.search import DocumentsSeen, SearchEffort, ShardHits, ShardQuery
from cluster.shards.index_parameters import IndexParameters

_BRIEF_SCAN_ELEMENTS = 1 << 22
"""Numbers of all vectors of a shard that are compared in some 5 ms."""
_BLOCK_VECTORS = 64
"""Vectors that a thread searches between two looks at whether anybody still waits."""
_EFFORTS_MAX = 64
"""Efforts whose costs are remembered."""
_COST_GAIN = 0.05
"""Weight of a search that took longer than known: a wait for a core says nothing about the search.
"""


@dataclass(slots=True)
class OpenedIndex:
    """An index version that is open, and what a query of it costs, as far as is known."""

    index: ShardIndex
    whole: ShardIndex
    """The same without tombstones: whatever else is deleted from these files is a view of it."""
    files: tuple[ArtifactFile, ...]
    parameters: IndexParameters
    hidden: HiddenDocuments
    now_s: Callable[[], float] = SYSTEM_CLOCK.monotonic_s
    """Clock by which searches are timed."""
    busy_s: float = 0.0
    """Time spent on searches that have ended."""
    begun_s: list[float] = field(default_factory=list)
    """Begin of each search under way: one runs on the event loop, the others in threads."""
    costs_s: dict[tuple[SearchEffort, int], float] = field(default_factory=dict)
    """Least recent cost of one vector, by effort and the power of two above `top_k`."""
    shown: tuple[DocumentsSeen, Mask | None, ShardIndex] | None = None
    """The last view without hidden rows, which searches of one version share; of no mask where
    nothing is hidden.
    """

    def spent_s(self) -> float:
        """The time spent on searches until now: a long one is work before it ends, too."""
        # A copy, for threads add to it; the clock afterwards, so that no search has yet to begin.
        begun_s = self.begun_s.copy()
        now_s = self.now_s()
        return self.busy_s + sum(now_s - each_s for each_s in begun_s)

    def expected_s(self, query: ShardQuery) -> float:
        """Expected time of the search. It is infinite with a filter, which may take any time, and
        where a weak query may fall back to a comparison with many rows.
        """
        elements = self.index.num_rows * self.index.dimension
        may_scan = self.parameters.fallback and elements > _BRIEF_SCAN_ELEMENTS
        if query.filter is not None or may_scan:
            return math.inf
        return self.costs_s.get(_priced_by(query), math.inf) * len(query.vectors)

    def search_while(self, wanted: Callable[[], None], query: ShardQuery) -> ShardHits:
        """Search in blocks, before each of which `wanted` may raise."""
        starts = range(0, max(1, len(query.vectors)), _BLOCK_VECTORS)
        hits = []
        for start in starts:
            wanted()
            block = query.vectors[start : start + _BLOCK_VECTORS]
            hits.append(self.search(replace(query, vectors=block)))
        return hits[0] if len(hits) == 1 else ShardHits.joined(hits)

    def search(self, query: ShardQuery) -> ShardHits:
        started_s = self.now_s()
        self.begun_s.append(started_s)
        try:
            hits = self._shown_to(query).search(query)
        finally:
            self.begun_s.remove(started_s)
            took_s = self.now_s() - started_s
            self.busy_s += took_s
        if query.filter is None and len(query.vectors):
            self._learn(_priced_by(query), took_s / len(query.vectors))
        return hits

    def _shown_to(self, query: ShardQuery) -> ShardIndex:
        """The index without the rows that are hidden from the query. Raises Unavailable where they
        are not known.
        """
        seen, shown = query.documents, self.shown
        if seen is None:
            return self.index
        if shown is not None and shown[0] == seen:
            return shown[2]
        live = self.hidden.live_rows(self.whole, seen)
        if live is None:
            index = self.index
        elif shown is not None and shown[1] is not None and np.array_equal(shown[1], live):
            # Most versions change nothing in most shards.
            index = shown[2]
        else:
            index = self.index.among(live)
        self.shown = seen, live, index
        return index

    def _learn(self, what: tuple[SearchEffort, int], cost_s: float) -> None:
        known_s = self.costs_s.get(what)
        if known_s is None and len(self.costs_s) >= _EFFORTS_MAX:
            self.costs_s.pop(next(iter(self.costs_s)))
        if known_s is not None and cost_s > known_s:
            cost_s = known_s + _COST_GAIN * (cost_s - known_s)
        self.costs_s[what] = cost_s


def _priced_by(query: ShardQuery) -> tuple[SearchEffort, int]:
    return query.effort, query.top_k.bit_length()
