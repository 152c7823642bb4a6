"""The replies of `/v1/search`, `/v1/answer` and `/v1/status`: how values become bytes, and the
models that describe those bytes in the OpenAPI page. A test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal

import orjson
from pydantic import BaseModel, Field

from cluster.query.answers import AnswerResult, Retrieved
from cluster.query.provenance import HasProvenance, Provenance
from cluster.query.search import Hit, SearchResult
from cluster.regions.status import RegionSummary
from deployments.http.schemas.search import HIT_FIELDS, HitField, ReplyForm

_FIRST = ("release", "region", "coverage")
_LAST = tuple(fact.name for fact in fields(Provenance) if fact.name not in _FIRST)


def with_provenance(reply: HasProvenance, **others: object) -> dict[str, object]:
    """The facts of the reply's provenance, in the order that replies have always had: after the
    first three come `others`, which only replies of this kind have.
    """
    made = reply.provenance
    facts = {"release": made.release, "region": made.region, "coverage": made.coverage, **others}
    for name in _LAST:
        facts[name] = getattr(made, name)
    return facts


def render_search(result: SearchResult, form: ReplyForm) -> bytes:
    results = _results(result, form.include)
    found: dict[str, object]
    if not form.is_batch:
        found = {"hits": results[0]}
        if result.fell_back:
            found["fallback"] = result.fell_back[0]
    elif result.fell_back:
        each = zip(results, result.fell_back, strict=True)
        found = {"results": [{"hits": hits, "fallback": fell_back} for hits, fell_back in each]}
    else:
        found = {"results": [{"hits": hits} for hits in results]}
    found |= with_provenance(result, took_ms=round(result.took_ms, 3))
    # Hits are dataclasses, which orjson writes by itself; `default` is for metadata that are a
    # mapping, but no dict.
    return orjson.dumps(found, default=dict)


def _results(result: SearchResult, include: frozenset[HitField]) -> Sequence[Sequence[object]]:
    """The hits of each query as orjson writes them, with only the parts that are asked for."""
    if result.arrays is not None:
        found = zip(result.arrays.ids.tolist(), result.arrays.scores.tolist(), strict=True)
        # A row without an id is padding.
        return [
            [{"id": id.decode(), "score": score} for id, score in zip(*hits, strict=True) if id]
            for hits in found
        ]
    if include == HIT_FIELDS:
        return result.results
    return [[_fields_of(hit, include) for hit in hits] for hits in result.results]


def _fields_of(hit: Hit, include: frozenset[HitField]) -> dict[str, object]:
    wanted: dict[str, object] = {"id": hit.id, "score": hit.score}
    for field in include:
        wanted[field] = getattr(hit, field)
    return wanted


def citations_of(made: Retrieved | AnswerResult) -> list[dict[str, object]]:
    """A citation without a title has no such key."""
    return [
        {"id": cited.id, "text": cited.text, "score": cited.score}
        | ({} if cited.title is None else {"title": cited.title})
        for cited in made.citations
    ]


def render_answer(result: AnswerResult) -> bytes:
    return orjson.dumps(
        {
            "answer": result.answer,
            "citations": citations_of(result),
            **with_provenance(
                result,
                usage=result.usage,
                finish_reason=result.finish_reason,
                model=result.model,
                took_ms=round(result.took_ms, 3),
            ),
            "outcome": result.outcome,
            "truncated": result.truncated,
        }
    )


def render_retrieved(retrieved: Retrieved) -> bytes:
    return orjson.dumps(
        {
            "citations": citations_of(retrieved),
            **with_provenance(retrieved, model=retrieved.model),
            "outcome": retrieved.outcome,
            "truncated": retrieved.truncated,
        }
    )


def render_token(text: str) -> bytes:
    return orjson.dumps({"text": text})


def render_status(summary: RegionSummary) -> bytes:
    return orjson.dumps(summary)


def render_ready(age_s: float) -> bytes:
    return orjson.dumps({"status": "ready", "age_s": round(age_s, 3)})


class ErrorDetail(BaseModel):
    code: str
    message: str
    retryable: bool = Field(description="True when the same request may succeed later.")
    field: str | None = Field(None, description="The path of what is wrong in the request.")
    type: str = Field(description="The kind of error, in the words of OpenAI's interface.")
    param: str | None = Field(description="The same as `field`, for OpenAI's clients.")
    trace_id: str


class ErrorReply(BaseModel):
    error: ErrorDetail


class HitReply(BaseModel):
    id: str
    score: float = Field(description="Higher is better, whatever the metric.")
    text: str | None = Field(None, description="Left out where it is not in `include`.")
    metadata: dict[str, str | int | float | bool | None] | None = Field(
        None, description="Left out where it is not in `include`."
    )


_FALLBACK = "Only where the index has a fallback: whether it had to compare all passages."


class HitsReply(BaseModel):
    hits: list[HitReply]
    fallback: bool | None = Field(None, description=_FALLBACK)


class _Served(BaseModel):
    release: int = Field(description="The release that made the whole reply.")
    region: str = Field(description="The region that was asked.")
    coverage: float = Field(description="Shards that answered / shards asked.")
    took_ms: float
    trace_id: str
    served_by: str = Field(description="The region that made the reply.")
    staleness_ms: int = Field(
        description="How long ago at most the release was current when it was chosen."
    )
    session: str = Field(description="A token for `session`: not older than this reply.")


class SearchReply(_Served):
    """The reply to `query` or `vector`."""

    hits: list[HitReply]
    fallback: bool | None = Field(None, description=_FALLBACK)


class BatchSearchReply(_Served):
    """The reply to `queries` or `vectors`: one entry each, in the same order."""

    results: list[HitsReply]


class CitationReply(BaseModel):
    id: str
    text: str
    score: float
    title: str | None = Field(None, description="Of the metadata; left out where there is none.")


class UsageReply(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class TruncatedReply(BaseModel):
    history_messages: int = Field(description="Oldest messages of the history that were left out.")
    passages: int = Field(description="Weakest passages that were found and left out.")
    passages_shortened: int = Field(description="1 where the last citation stood there in part.")


OUTCOME = "`answered`, or `nothing_found`: then `answer` is the release's own text for that."
TRUNCATED = "What the prompt lacked, since it did not fit; null where nothing was cut."


class AnswerReply(_Served):
    answer: str
    citations: list[CitationReply] = Field(
        description="The passages that stood in the prompt; the first one is [1] in the answer."
    )
    usage: UsageReply
    finish_reason: str = Field(description="`stop`, or `length` at `max_tokens`.")
    model: str
    outcome: Literal["answered", "nothing_found"] = Field(description=OUTCOME)
    truncated: TruncatedReply | None = Field(description=TRUNCATED)


class ChatSourceReply(BaseModel):
    release: int
    region: str
    coverage: float
    citations: list[CitationReply]
    trace_id: str
    served_by: str
    staleness_ms: int
    session: str
    outcome: Literal["answered", "nothing_found"] = Field(description=OUTCOME)
    truncated: TruncatedReply | None = Field(description=TRUNCATED)


class EmbeddingsSourceReply(BaseModel):
    release: int
    region: str
    coverage: float
    embedder: str = Field(description="The version of the embedder that made the vectors.")
    trace_id: str
    served_by: str
    staleness_ms: int
    session: str


class CorpusReply(BaseModel):
    corpus: str
    index_version: str
    num_passages: int
    recall_at_10: float
    recall_at_10_least: float | None = Field(
        description="In the kind and crowding of queries for which the index finds least; null "
        "for an index of an older version."
    )
    shards: int
    replicas: int
    replicas_serving: int


class ReleaseReply(BaseModel):
    release: int
    corpora: list[CorpusReply]
    model: str | None


class CanaryReply(BaseModel):
    release: int
    percent: int = Field(description="Its share of the traffic.")


class RegionReply(BaseModel):
    region: str
    release: int | None = Field(description="The current one there.")
    prepared: list[int]
    failed: dict[str, str] = Field(description="Releases that it could not prepare, and why.")
    log_lag: int | None = Field(description="Entries of the release log that it had not read.")
    heard_s: float | None = Field(description="Seconds since its last heartbeat.")
    silent: bool
    healthy: bool
    load: float = Field(description="How busy it is, in [0, 1].")
    leads: bool


class CorpusProbeReply(BaseModel):
    corpus: str
    regions: list[str] = Field(description="Whose answers were compared.")
    outcome: str = Field(description="`alike`, `differ`, or `too_few` answers.")


class DifferenceReply(BaseModel):
    corpus: str
    release: int
    question: str
    answers: dict[str, list[str]] = Field(description="Regions, by the digest of what they say.")


class DivergenceReply(BaseModel):
    differs: bool
    at_ms: int | None = Field(description="When the last probe was made; null before the first.")
    release: int | None = Field(description="That was asked for.")
    corpora: list[CorpusProbeReply]
    differences: list[DifferenceReply] = Field(description="That stand: not refuted since.")
    probes: dict[str, int] = Field(description="How many, by outcome.")


class MachineReply(BaseModel):
    address: str
    node: str = Field(description="The id that Ray gave it.")
    replicas: dict[str, int] = Field(description="Shard replicas that answer there, by corpus.")
    embedders: int
    gateways: int


class DocumentsReply(BaseModel):
    corpus: str
    watermark: dict[str, int] = Field(
        description="Position in each region's log up to which its writes are applied."
    )
    read_ms: int = Field(description="When the last complete reading of all logs began.")
    digest: str = Field(description="Equal in regions that have applied the same writes.")
    rows: int = Field(description="Passages, and deletes, that the index does not hold yet.")
    size_bytes: int
    waiting: int = Field(description="Writes that wait to be stored.")
    unreadable: dict[str, str] = Field(
        description="Why the logs of regions cannot be read further, by region."
    )


class StatusReply(BaseModel):
    region: str
    release: int | None
    resident: list[ReleaseReply]
    leader: str | None
    epoch: int
    log_position: int
    healthy: bool
    canary: CanaryReply | None
    regions: list[RegionReply] = Field(description="All of them, as far as this one knows.")
    divergence: DivergenceReply | None = Field(
        None, description="How the regions' answers compare; null where nothing is compared."
    )
    machines: list[MachineReply] = Field(description="Of the region, that are alive.")
    log_trouble: str | None = Field(
        description="Which entry of the release log cannot be read; null where all can."
    )
    documents: list[DocumentsReply] | None = Field(
        description="Corpora to which single documents were written; null where that is not known."
    )


class HealthReply(BaseModel):
    status: str


class ReachedReply(BaseModel):
    epoch: str = Field(description="By which the region's processes number the changes.")
    version: int
    watermark: dict[str, int] = Field(description="Position in each region's log.")
    read_ms: int = Field(description="When the last complete reading of all logs began.")


class ReadyReply(HealthReply):
    age_s: float = Field(description="How long ago at most the region's coordinator said so.")


SEARCH_EXAMPLES: dict[str, Any] = {
    "text": {"value": {"query": "Which country exports the most tea?", "top_k": 3}},
    "filtered": {
        "value": {
            "query": "capital on an island",
            "filter": {"region": {"in": ["europe", "oceania"]}},
            "fields": ["country"],
        }
    },
    "batch of vectors": {"value": {"vectors": [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]], "top_k": 2}},
}
ANSWER_EXAMPLES: dict[str, Any] = {
    "whole": {"value": {"question": "What is the capital of Iceland?"}},
    "streamed": {
        "value": {
            "question": "What is the capital of Iceland?",
            "filter": {"region": "europe"},
            "max_tokens": 64,
            "stream": True,
        }
    },
}
