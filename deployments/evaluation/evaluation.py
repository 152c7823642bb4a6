"""Measures how well a corpus answers judged queries, over HTTP; `ir_measures` computes the scores.

All figures are of one release: the one that answered first is pinned for the rest.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import ir_measures
from ir_measures import DefaultPipeline, Measure, Qrel, ScoredDoc

from cluster.clock import Backoff, Deadline
from cluster.documents.passages import document_of
from cluster.errors import InvalidArgument, RaygionError
from cluster.progress import Count
from cluster.query.terms import TOP_K_MAX
from cluster.search.checks import HITS_MAX
from deployments.evaluation.files import Judgements, Queries

_BATCH_MAX = 64
_HITS_AT_ONCE = 8192
"""Hits that one reply holds. Every hit brings its text along, so a reply with many hits a query
holds fewer queries.
"""
assert _HITS_AT_ONCE <= HITS_MAX
_DEEPER = 4
_BATCH_TIMEOUT_S = 60.0
_RETRY = Backoff(initial_s=0.5, wait_max_s=2.0, attempts_max=3)
_BATCHES_LOST_MAX = 3
"""Lost batches in a row after which the rest is not asked any more."""


class Unit(StrEnum):
    """The kind of thing that a judgement names, and that is therefore ranked."""

    DOCUMENT = "document"
    PASSAGE = "passage"


class Searched(Protocol):
    """The region; `HttpRegion` is one."""

    def post(self, path: str, body: Mapping[str, object]) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The plan of a measurement."""

    corpus: str
    queries: Queries
    judgements: Judgements
    measures: tuple[Measure, ...]
    top_k: int
    by: Unit
    release: int | None = None
    """None takes the release that is current at the first reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Means over the queries that were answered. A query is asked when it has a relevant document
    in the judgements.
    """

    corpus: str
    release: int
    """The only one that answered."""
    region: str
    by: Unit
    top_k: int
    metrics: Mapping[str, float]
    num_answered: int
    num_failed: int
    failures: Mapping[str, int]
    """Failed queries by the code of their error."""
    num_unjudged: int
    """Queries without a relevant document: not asked."""
    num_without_query: int
    """Judged queries that are not in the file of queries."""
    num_hits: int
    num_hits_judged: int
    """Hits that have a grade for their query, be it 0."""
    coverage: float
    """The lowest of all replies."""


def parse_measures(names: Sequence[str], top_k: int) -> tuple[Measure, ...]:
    """Measures in the words of `ir_measures`: `nDCG@10`, `P@1`, `AP`. No names: nDCG, recall and
    reciprocal rank at `top_k`.

    Raises InvalidArgument for an unknown measure, and for one that looks deeper than `top_k`.
    """
    wanted = names or [f"{name}@{top_k}" for name in ("nDCG", "R", "RR")]
    return tuple(dict.fromkeys(_parse_measure(name, top_k) for name in wanted))


def _parse_measure(name: str, top_k: int) -> Measure:
    try:
        measure = ir_measures.parse_measure(name)
        supported = DefaultPipeline.supports(measure)  # type: ignore[no-untyped-call]
    # The names of parameters are checked by assertions there.
    except (NameError, ValueError, AssertionError) as error:
        raise InvalidArgument(f"{name!r} is no measure: {error}", "metric") from None
    if not supported:
        raise InvalidArgument(f"{name!r} needs a package that is not installed", "metric")
    cutoff = measure.params.get("cutoff", top_k)
    if not 1 <= cutoff <= top_k:
        raise InvalidArgument(
            f"{name!r} looks at {cutoff} hits of {top_k}; raise --top-k", "metric"
        )
    return measure


def evaluate(
    region: Searched,
    plan: Plan,
    *,
    deadline: Deadline,
    pause: Callable[[float], None],
    count: Count,
) -> Evaluation:
    """Asks all judged queries and scores the rankings.

    A batch that fails for a reason that may pass is tried again, within the deadline, and counts as
    failed in the end. Any other error is raised, and so is every error before the first reply.
    `pause` waits for so many seconds; `count` is told the queries done, and all.
    """
    rows = [row for row, id in enumerate(plan.queries.ids) if _has_relevant(plan.judgements, id)]
    if not rows:
        raise InvalidArgument(
            "no query has a relevant document in the judgements; do their query ids agree?", "qrels"
        )
    asking = _Asking(region, plan, deadline, pause)
    rankings = _rankings(asking, rows, count)
    if not rankings and asking.last_error is not None:
        # All of them were lost when they were asked for more passages.
        raise asking.last_error
    assert asking.release is not None
    judged = {id: plan.judgements[id] for id in rankings}
    return Evaluation(
        corpus=plan.corpus,
        release=asking.release,
        region=asking.region_name,
        by=plan.by,
        top_k=plan.top_k,
        metrics=score(plan.measures, judged, rankings),
        num_answered=len(rankings),
        num_failed=asking.failures.total(),
        failures=dict(asking.failures),
        num_unjudged=len(plan.queries.ids) - len(rows),
        num_without_query=len(plan.judgements.keys() - set(plan.queries.ids)),
        num_hits=sum(map(len, rankings.values())),
        num_hits_judged=sum(hit in judged[id] for id, hits in rankings.items() for hit in hits),
        coverage=asking.coverage,
    )


def score(
    measures: Sequence[Measure], judgements: Judgements, rankings: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """The mean of each measure over the queries that have judgements, by its name."""
    qrels = [Qrel(q, d, grade) for q, grades in judgements.items() for d, grade in grades.items()]
    # trec_eval orders by score and then by id; the rank as the score keeps the region's own order.
    run = [
        ScoredDoc(query, hit, float(-rank))
        for query, hits in rankings.items()
        for rank, hit in enumerate(hits)
    ]
    values = ir_measures.calc_aggregate(measures, qrels, run)
    return {str(measure): float(values[measure]) for measure in measures}


def _judged_document(passage: str, judged: frozenset[str]) -> str:
    """The document of a passage: `{document}#3` of a document that was cut, else the same id.

    Replies do not tell a document that is itself named `a#3`, so an id that was judged as it stands
    is taken as it stands.
    """
    return passage if passage in judged else document_of(passage)


def _has_relevant(judgements: Judgements, query: str) -> bool:
    return any(grade > 0 for grade in judgements.get(query, {}).values())


def _rankings(asking: _Asking, rows: Sequence[int], count: Count) -> dict[str, list[str]]:
    """The best `top_k` documents or passages of each answered query.

    Where the passages are of too few documents, the query is asked again for more of them.
    """
    plan = asking.plan
    judged = frozenset(document for grades in plan.judgements.values() for document in grades)
    rankings: dict[str, list[str]] = {}
    pending, depth = list(rows), plan.top_k
    while pending:
        too_few: list[int] = []
        for batch in _batches(pending, depth):
            found = asking.hits_of(batch, depth)
            for row, hits in zip(batch, found, strict=True) if found is not None else ():
                ranked = hits
                if plan.by is Unit.DOCUMENT:
                    ranked = list(dict.fromkeys(_judged_document(hit, judged) for hit in hits))
                if len(ranked) < plan.top_k and len(hits) == depth < TOP_K_MAX:
                    too_few.append(row)
                else:
                    rankings[plan.queries.ids[row]] = ranked[: plan.top_k]
            count(len(rankings) + asking.failures.total(), len(rows))
        pending, depth = too_few, min(depth * _DEEPER, TOP_K_MAX)
    return rankings


def _batches(rows: Sequence[int], depth: int) -> Iterator[Sequence[int]]:
    size = min(_BATCH_MAX, max(1, _HITS_AT_ONCE // depth))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


@dataclass(slots=True)
class _Asking:
    """The batches of one evaluation, all answered by one release."""

    region: Searched
    plan: Plan
    deadline: Deadline
    pause: Callable[[float], None]
    release: int | None = None
    region_name: str = ""
    coverage: float = 1.0
    failures: Counter[str] = field(default_factory=Counter)
    last_error: RaygionError | None = None
    _lost_in_a_row: int = 0

    def hits_of(self, rows: Sequence[int], depth: int) -> list[list[str]] | None:
        """Ids of the passages found for each query, best first; None when the batch was lost."""
        if self._lost_in_a_row < _BATCHES_LOST_MAX:
            reply = self._reply(rows, depth)
            if reply is not None:
                self._lost_in_a_row = 0
                return [[hit["id"] for hit in result["hits"]] for result in reply["results"]]
        assert self.last_error is not None
        self._lost_in_a_row += 1
        self.failures[self.last_error.code] += len(rows)
        return None

    def _reply(self, rows: Sequence[int], depth: int) -> dict[str, Any] | None:
        rng = random.Random(len(rows))  # noqa: S311 - seeded
        for attempt in range(_RETRY.attempts_max):
            try:
                self.deadline.check("asking the queries")
                reply = self.region.post("/v1/search", self._body(rows, depth))
            except RaygionError as error:
                if self.release is None or not error.retryable:
                    raise
                self.last_error = error
            else:
                self.release, self.region_name = reply["release"], reply["region"]
                self.coverage = min(self.coverage, reply["coverage"])
                return reply
            if attempt + 1 < _RETRY.attempts_max:
                self.pause(min(_RETRY.wait_s(attempt, rng), self.deadline.remaining_s()))
        return None

    def _body(self, rows: Sequence[int], depth: int) -> dict[str, object]:
        timeout_s = min(_BATCH_TIMEOUT_S, self.deadline.remaining_s())
        body: dict[str, object] = {
            "corpus": self.plan.corpus,
            "top_k": depth,
            "fields": [],
            "timeout_ms": max(1, int(timeout_s * 1000)),
            **self.plan.queries.body_of(rows),
        }
        release = self.plan.release if self.release is None else self.release
        return body if release is None else {**body, "release": release}
