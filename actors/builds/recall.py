"""Measures how much of the exact answer an index finds, and where it finds least.

An average hides a hole: an index that finds nothing beside a crowd of like vectors finds nearly
everything on average, since nearly every row is in the crowd. So distinct vectors are counted, not
rows; half of the rows that ask are spread over the space, so that there are some wherever vectors
are; and they are told apart in strata, by the kind of query and by how crowded its neighbourhood
is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from actors.shards.index import ShardIndex
from cluster.arrays import Float32Array, Int64Array
from cluster.query.filters import Filter
from cluster.query.search import AS_TUNED, SearchEffort, ShardQuery
from cluster.shards.index_parameters import IndexParameters
from cluster.shards.recall import MOVED, STORED, QueryKind, Recall, RecallStratum
from cluster.vectors.checks import norms, prepared

RECALL_K = 10
_QUARTERS = 4
_ROWS_AT_RANDOM = 100
_ROWS_APART = 100
_APART_AMONG_MAX = 1 << 16
"""Rows that those are chosen from, which reads their vectors a hundred times: among all of
200,000 x 384 it took 2.6 s of the CPU, as long as the rest of the measuring."""
_PERTURBATION = 0.1


@dataclass(frozen=True, slots=True)
class RecallSample:
    """Queries whose exact answers are known."""

    queries: Float32Array
    """float32 [n, d], prepared for the metric."""
    least: Float32Array
    """float32 [n]: the score of the exact tenth hit, or of the last one where there are fewer."""
    best: Float32Array
    """float32 [n]: the score of the exact best hit."""
    wanted: Int64Array
    """int64 [n]: how many hits there are, ten at most."""
    strata: tuple[tuple[QueryKind, int, Int64Array], ...]
    """The kind of queries, the quarter (1 is the most crowded), and which queries are in it."""
    filter: Filter | None = None

    @classmethod
    def of(
        cls,
        groups: Mapping[QueryKind, Float32Array],
        exact: Float32Array,
        filter: Filter | None = None,
    ) -> Self:
        """Queries by their kind. exact: float32 [n, 10], the scores of the best hits of each."""
        queries = np.concatenate([*groups.values()])
        is_hit = np.isfinite(exact)
        least = exact.min(axis=1, where=is_hit, initial=np.inf)
        strata, start = [], 0
        for kind, group in groups.items():
            # The nearer the tenth hit, the more crowded it is around the query.
            order = start + np.argsort(-least[start : start + len(group)], kind="stable")
            quarters = np.array_split(order, _QUARTERS)
            strata += [(kind, i, queries) for i, queries in enumerate(quarters, 1) if queries.size]
            start += len(group)
        return cls(queries, least, exact[:, 0], is_hit.sum(axis=1), tuple(strata), filter)

    @classmethod
    def of_rows(
        cls,
        index: ShardIndex,
        vectors: Float32Array,
        parameters: IndexParameters,
        *,
        apart_among_max: int = _APART_AMONG_MAX,
    ) -> Self:
        """Queries from what a shard holds: some of its vectors, as they are and moved a little.

        vectors: float32 [rows, d], as the shard stores them.
        """
        rng = sampling_rng(parameters)
        rows = index.distinct_rows()
        at_random = rng.choice(rows, size=min(_ROWS_AT_RANDOM, len(rows)), replace=False)
        among = rng.choice(rows, size=min(apart_among_max, len(rows)), replace=False)
        chosen = np.concatenate([at_random, _apart(vectors, among)])
        stored = vectors[chosen]
        scale = _PERTURBATION * norms(stored)[:, None] / np.sqrt(stored.shape[1])
        moved = (stored + scale * rng.standard_normal(stored.shape)).astype(np.float32)
        groups: dict[QueryKind, Float32Array] = {
            STORED: stored,
            MOVED: prepared(moved, parameters.metric),
        }
        return cls.of(groups, exact_scores(index, np.concatenate([*groups.values()])))

    def recall(self, index: ShardIndex) -> Recall:
        """The share of these answers that the index finds: any vector as good as the exact tenth
        counts.
        """
        query = replace(_query(self.queries, AS_TUNED), filter=self.filter)
        found = index.search_distinct(query).scores
        has_best = found[:, 0] >= self.best
        good = (np.isfinite(found) & (found >= self.least[:, None])).sum(axis=1)
        # A scan, which small shards are searched by, finds the vectors that were held out, too.
        good = np.minimum(good, self.wanted)
        strata = tuple(
            RecallStratum(
                queries=kind,
                crowding=quarter,
                num_queries=len(queries),
                recall_at_10=_share(good[queries], self.wanted[queries]),
                best_found=float(has_best[queries].mean()),
            )
            for kind, quarter, queries in self.strata
        )
        each = good / np.maximum(1, self.wanted)
        return Recall(
            recall_at_10=_share(good, self.wanted),
            standard_error=float(each.std() / np.sqrt(len(each))) if len(each) else 0.0,
            strata=strata,
        )


@dataclass(frozen=True, slots=True)
class MeasuredIndex:
    """An index and the queries that it is asked, with any effort."""

    index: ShardIndex
    sample: RecallSample
    _known: dict[IndexParameters, Recall] = field(default_factory=dict, init=False, repr=False)

    def recall(self, parameters: IndexParameters) -> Recall:
        """The recall of the index itself, without its fallback, with the effort of these
        parameters. Each effort is measured once.
        """
        own = without_fallback(parameters)
        if own not in self._known:
            self._known[own] = self.sample.recall(self.index.tuned(own))
        return self._known[own]


def without_fallback(parameters: IndexParameters) -> IndexParameters:
    return parameters.model_copy(update={"fallback": False})


def exact_scores(index: ShardIndex, queries: Float32Array) -> Float32Array:
    """float32 [n, 10]: the scores of the best distinct vectors of the index, padded with -inf."""
    return index.search_distinct(_query(queries, SearchEffort(exact=True))).scores


def sampling_rng(parameters: IndexParameters) -> np.random.Generator:
    return np.random.default_rng(parameters.seed & 0x7FFFFFFF)


def _query(vectors: Float32Array, effort: SearchEffort) -> ShardQuery:
    return ShardQuery(corpus="", index_version="", vectors=vectors, top_k=RECALL_K, effort=effort)


def _share(found: Int64Array, wanted: Int64Array) -> float:
    return float(found.sum() / wanted.sum()) if wanted.any() else 1.0


def _apart(vectors: Float32Array, rows: Int64Array) -> Int64Array:
    """The row farthest from the first of `rows`, then the row farthest from both, and so on
    (Gonzalez 1985), so that soon every neighbourhood with rows has a row among them.
    """
    stored = vectors[rows]
    squares = np.einsum("nd,nd->n", stored, stored)
    nearest = np.full(len(rows), np.inf, dtype=np.float32)
    last, chosen = 0, []
    for _ in range(min(_ROWS_APART, len(rows))):
        distances = squares + squares[last] - 2.0 * (stored @ stored[last])
        np.minimum(nearest, distances, out=nearest)
        last = int(np.argmax(nearest))
        chosen.append(last)
    return rows[np.array(chosen, dtype=np.int64)]
