"""Checks that retrieval is right, by the gold paragraphs of XQuAD's questions and by equal ids.

Every exact index is compared with one index over the same vectors in this process, and with Faiss's
own IndexFlatIP.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from actors.builds.shard import ShardPlan, build_shard
from actors.models.embedding_worker import num_cores, open_embedder
from actors.shards.faiss_index import faiss
from actors.shards.index import ShardIndex
from bench.data import Question, paragraph_of, read_xquad
from bench.plan import Plan
from bench.region import BenchRegion, StoredVectors, running_region
from bench.reports import Quality, QualityReport, environment_now
from cluster.arrays import Float32Array
from cluster.catalog.corpus_settings import CorpusSettings
from cluster.query.search import ShardQuery
from cluster.shards.index_parameters import IndexKind, NamedIndex
from cluster.vectors.metric import Metric
from deployments.clients.http_client import HttpRegion

_TOP_K = 10
_BATCH = 64
_TIMEOUT_MS = 60_000
_FIRST = "xquad-2"
_SHARDS = (1, 2, 3, 8)
_GRAPH = "xquad-hnsw"
_FLAT = NamedIndex(kind=IndexKind.FLAT, metric=Metric.COSINE)

Ids = list[list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    questions: tuple[Question, ...]
    vectors: Float32Array
    """Vectors of the questions, float32 [n, d], embedded here in the batches in which texts are
    sent.
    """


def measure(plan: Plan) -> QualityReport:
    """Starts a region of its own and ends it. Needs a process of its own."""
    environment = environment_now(quick=plan.quick, repetitions=1)
    data = read_xquad(plan.xquad)
    flat = {
        f"xquad-{shards}": CorpusSettings(shards=shards, replicas=1, index=_FLAT)
        for shards in _SHARDS
    }
    graph = {_GRAPH: CorpusSettings(shards=2, replicas=1)}
    with running_region({**flat, **graph}) as region:
        region.add_texts(_FIRST, data.documents)
        stored = region.stored_vectors(_FIRST)
        for corpus in (*flat, _GRAPH):
            if corpus != _FIRST:
                region.add_vectors(corpus, stored)
        region.serve()
        asked = _Asked(questions=data.questions, vectors=_embedded(region, data.questions))
        rows = [_row(region, _FIRST, asked, by_text=True)]
        rows += [_row(region, corpus, asked, by_text=False) for corpus in (*flat, _GRAPH)]
    return QualityReport(
        environment=environment,
        data=plan.xquad.name,
        num_paragraphs=len(data.documents),
        num_passages=len(stored.ids),
        num_questions=len(data.questions),
        rows=tuple(rows),
    )


def _embedded(region: BenchRegion, questions: Sequence[Question]) -> Float32Array:
    embedder = open_embedder(region.embedder(), region.installation.cache, num_cores())
    texts = [question.text for question in questions]
    batches = [texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH)]
    return np.concatenate([embedder.embed(batch) for batch in batches])


def _row(region: BenchRegion, corpus: str, asked: _Asked, *, by_text: bool) -> Quality:
    found = _served_ids(region, corpus, asked, by_text=by_text)
    index = region.index(corpus)
    is_exact = index.parameters.kind is IndexKind.FLAT
    stored = region.stored_vectors(corpus)
    return Quality(
        index=str(index.parameters.kind),
        shards=len(index.shards),
        asked="text" if by_text else "vector",
        hit_at_1=_hit_rate(found, asked.questions, 1),
        hit_at_5=_hit_rate(found, asked.questions, 5),
        differs_from_one_index=_differing(found, _one_index_ids(stored, asked.vectors))
        if is_exact
        else None,
        differs_from_faiss=_differing(found, _faiss_ids(stored, asked.vectors))
        if is_exact
        else None,
    )


def _served_ids(region: BenchRegion, corpus: str, asked: _Asked, *, by_text: bool) -> Ids:
    """Through HTTP, gateway and replicas."""
    found: Ids = []
    with HttpRegion.of(region.installation) as http:
        for start in range(0, len(asked.questions), _BATCH):
            batch = slice(start, start + _BATCH)
            body: dict[str, object] = {"corpus": corpus, "top_k": _TOP_K, "fields": []}
            body["timeout_ms"] = _TIMEOUT_MS
            if by_text:
                body["queries"] = [question.text for question in asked.questions[batch]]
            else:
                body["vectors"] = asked.vectors[batch].tolist()
            results = http.post("/v1/search", body)["results"]
            found += [[hit["id"] for hit in result["hits"]] for result in results]
    return found


def _one_index_ids(stored: StoredVectors, vectors: Float32Array) -> Ids:
    """One Flat index over all vectors, as a shard holds it."""
    table = pa.table({"id": stored.ids, "document": stored.ids, "text": stored.texts})
    with tempfile.TemporaryDirectory(prefix="rgb-") as folder:
        build_shard(table, stored.vectors, ShardPlan(_FLAT.parameters), Path(folder))
        index = ShardIndex.open(Path(folder), _FLAT.parameters, stored.vectors.shape[1])
        query = ShardQuery(corpus="", index_version="", vectors=vectors, top_k=_TOP_K)
        ids = index.search(query).ids
    return [[id.decode() for id in row] for row in ids.tolist()]


def _faiss_ids(stored: StoredVectors, vectors: Float32Array) -> Ids:
    index = faiss.IndexFlatIP(stored.vectors.shape[1])
    index.add(stored.vectors)
    _, rows = index.search(vectors, _TOP_K)
    return [[stored.ids[row] for row in of_query] for of_query in rows.tolist()]


def _hit_rate(found: Ids, questions: Sequence[Question], first: int) -> float:
    """Share of the questions whose gold paragraph is among the first passages."""
    hits = sum(
        question.paragraph in map(paragraph_of, ids[:first])
        for ids, question in zip(found, questions, strict=True)
    )
    return hits / len(questions)


def _differing(found: Ids, wanted: Ids) -> int:
    return sum(one != other for one, other in zip(found, wanted, strict=True))
