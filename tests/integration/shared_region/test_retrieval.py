"""Retrieval through the whole region, held against one index in this process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import faiss
import httpx
import numpy as np
import pyarrow as pa
import pytest

from actors.builds.shard import ShardPlan, build_shard
from actors.models.embedder import Embedder
from actors.models.starter_models import starter_embedder_folder
from actors.shards.index import ShardIndex
from cluster.arrays import Float32Array
from cluster.query.search import ShardQuery
from cluster.shards.index_parameters import IndexKind, IndexParameters
from cluster.vectors.checks import prepared
from cluster.vectors.metric import Metric
from deployments.nodes.local_cluster import find_local_cluster
from tests.support.regions.region_fixture import (
    PARTITIONED,
    READY_MADE,
    SHARDS,
    LiveRegion,
    stored_vectors,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

K = 10
NEAR = 1e-6
"""Scores of two kernels of single precision may differ by this much."""


@pytest.fixture(scope="module")
def queries(shared_region: LiveRegion) -> Float32Array:
    """float32 [questions, d], embedded in this process."""
    embedder = Embedder(starter_embedder_folder(), num_threads=2)
    return embedder.embed([q.question for q in shared_region.xquad.questions])


class Reference:
    """One Flat index in this process over the vectors that a corpus of the region stores."""

    def __init__(self, region: LiveRegion, corpus: str, folder: Path) -> None:
        stored = stored_vectors(region.installation, region.index(corpus))
        self.ids = sorted(stored)
        self.vectors = np.stack([stored[id] for id in self.ids])
        # They are normalised already, so the inner product is the cosine.
        parameters = IndexParameters(kind=IndexKind.FLAT, metric=Metric.INNER_PRODUCT)
        table = pa.table({"id": self.ids, "document": self.ids, "text": [""] * len(self.ids)})
        build_shard(table, self.vectors, ShardPlan(parameters), folder)
        self._index = ShardIndex.open(folder, parameters, self.vectors.shape[1])

    def search(self, queries: Float32Array, k: int) -> list[list[tuple[str, float]]]:
        vectors = prepared(queries, Metric.COSINE)
        found = self._index.search(
            ShardQuery(corpus="", index_version="", vectors=vectors, top_k=k)
        )
        return [
            [(id.decode(), score) for id, score in zip(ids, scores, strict=True)]
            for ids, scores in zip(found.ids.tolist(), found.scores.tolist(), strict=True)
        ]


def found_by(reply: dict[str, Any]) -> list[list[tuple[str, float]]]:
    return [[(h["id"], h["score"]) for h in result["hits"]] for result in reply["results"]]


@pytest.mark.parametrize("corpus", SHARDS)
def test_any_number_of_shards_answers_like_one_index(
    shared_region: LiveRegion,
    http: httpx.Client,
    queries: Float32Array,
    corpus: str,
    tmp_path: Path,
) -> None:
    assert len(shared_region.index(corpus).shards) == SHARDS[corpus]
    reference = Reference(shared_region, corpus, tmp_path)
    reply = shared_region.search(http, corpus=corpus, vectors=queries.tolist(), top_k=K)
    assert reply["coverage"] == 1.0
    found = found_by(reply)
    assert found == reference.search(queries, K)
    _assert_plain_faiss_agrees(found, reference, queries)


def _assert_plain_faiss_agrees(
    found: list[list[tuple[str, float]]], reference: Reference, queries: Float32Array
) -> None:
    plain = faiss.IndexFlatIP(reference.vectors.shape[1])
    plain.add(reference.vectors)
    scores, rows = plain.search(prepared(queries, Metric.COSINE), K)
    for hits, row_scores, row in zip(found, scores, rows, strict=True):
        assert np.abs(row_scores - [score for _, score in hits]).max() < NEAR
        exact = dict(hits)
        for (id, score), number in zip(hits, row, strict=True):
            other = reference.ids[number]
            # Another id at this rank only where the two are as good as tied.
            assert id == other or abs(exact.get(other, score) - score) < NEAR


def test_shards_and_replicas_do_not_change_the_ranking(
    shared_region: LiveRegion, http: httpx.Client, queries: Float32Array
) -> None:
    """The same request, to all corpora and thrice each, so that every replica gets its turn."""
    vectors = queries[:50].tolist()
    rankings = {
        corpus: {
            str([[id for id, _ in hits] for hits in found_by(reply)])
            for reply in (
                shared_region.search(http, corpus=corpus, vectors=vectors, top_k=K)
                for _ in range(3)
            )
        }
        for corpus in SHARDS
    }
    assert len(set.union(*rankings.values())) == 1


def test_questions_find_their_paragraph(
    shared_region: LiveRegion, http: httpx.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = shared_region.xquad.questions
    reply = shared_region.search(http, queries=[q.question for q in questions], top_k=5, fields=[])
    ranks = [
        [h["id"] for h in result["hits"]].index(q.paragraph) if _has(result, q.paragraph) else None
        for q, result in zip(questions, reply["results"], strict=True)
    ]
    hit_at_1 = ranks.count(0) / len(ranks)
    hit_at_5 = 1 - ranks.count(None) / len(ranks)
    with capsys.disabled():
        print(f"\nXQuAD, small: hit@1 {hit_at_1:.3f}, hit@5 {hit_at_5:.3f}, n={len(ranks)}")
    assert hit_at_1 > 0.8
    assert hit_at_5 > 0.95


def _has(result: dict[str, Any], id: str) -> bool:
    return any(hit["id"] == id for hit in result["hits"])


def test_a_text_finds_what_its_vector_finds(
    shared_region: LiveRegion, http: httpx.Client, queries: Float32Array
) -> None:
    texts = [q.question for q in shared_region.xquad.questions[:40]]
    by_text = found_by(shared_region.search(http, queries=texts, top_k=K))
    by_vector = found_by(shared_region.search(http, vectors=queries[:40].tolist(), top_k=K))
    for one, other in zip(by_text, by_vector, strict=True):
        assert np.allclose([s for _, s in one], [s for _, s in other], atol=1e-4)


FILTERS: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], bool]]] = {
    "equal": ({"title": "Warsaw"}, lambda m: m["title"] == "Warsaw"),
    "other": ({"title": {"ne": "Warsaw"}}, lambda m: m["title"] != "Warsaw"),
    "in": (
        {"title": {"in": ["Warsaw", "Nikola Tesla"]}},
        lambda m: m["title"] in ("Warsaw", "Nikola Tesla"),
    ),
    "range": ({"chars": {"gte": 600, "lt": 1000}}, lambda m: 600 <= m["chars"] < 1000),
    "both": (
        {"chars": {"gt": 700}, "title": {"in": ["Warsaw", "Genghis Khan", "Chloroplast"]}},
        lambda m: m["chars"] > 700 and m["title"] in ("Warsaw", "Genghis Khan", "Chloroplast"),
    ),
    "or and not": (
        {"or": [{"not": {"chars": {"lte": 900}}}, {"title": "Warsaw"}]},
        lambda m: m["chars"] > 900 or m["title"] == "Warsaw",
    ),
    "nothing": ({"chars": {"lt": 0}}, lambda m: False),
}


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("corpus", ["xquad", "vectors-eight", PARTITIONED])
def test_a_filter_gives_the_best_of_what_matches(
    shared_region: LiveRegion,
    http: httpx.Client,
    queries: Float32Array,
    corpus: str,
    name: str,
    tmp_path: Path,
) -> None:
    filter, matches = FILTERS[name]
    passages = shared_region.xquad.passages
    few = queries[:8]
    every = Reference(shared_region, corpus, tmp_path).search(few, len(passages))
    wanted = [[h for h in hits if matches(passages[h[0]]["metadata"])][:K] for hits in every]
    reply = shared_region.search(
        http, corpus=corpus, vectors=few.tolist(), top_k=K, filter=filter, fields=["chars"]
    )
    assert found_by(reply) == wanted
    for result in reply["results"]:
        for hit in result["hits"]:
            passage = passages[hit["id"]]
            assert hit["text"] == passage["text"]
            assert hit["metadata"] == {"chars": passage["metadata"]["chars"]}


def test_more_hits_than_passages_gives_every_passage_once(
    shared_region: LiveRegion, http: httpx.Client, queries: Float32Array
) -> None:
    reply = shared_region.search(
        http, corpus="vectors-eight", vector=queries[0].tolist(), top_k=1000
    )
    assert sorted(h["id"] for h in reply["hits"]) == sorted(shared_region.xquad.passages)


# A corpus that brought its own vectors: the search tier alone.


@pytest.mark.parametrize("corpus", READY_MADE)
def test_a_ready_made_vector_finds_itself(
    shared_region: LiveRegion, http: httpx.Client, corpus: str
) -> None:
    for id, vector in list(shared_region.vectors.items())[:3]:
        best = shared_region.search(http, corpus=corpus, vector=vector.tolist())["hits"][0]
        assert best["id"] == id
        assert best["score"] == pytest.approx(1.0, abs=NEAR)
        assert best["text"] == shared_region.xquad.passages[id]["text"]
        assert best["metadata"] == shared_region.xquad.passages[id]["metadata"]


def test_questions_are_embedded_by_the_gateway_while_no_embedder_answers(
    shared_region: LiveRegion, http: httpx.Client
) -> None:
    question = shared_region.xquad.questions[0].question
    expected = shared_region.search(http, query=question)["hits"]
    cluster = find_local_cluster(shared_region.installation.run_folder)
    assert cluster is not None
    pids = cluster.pids("ray::EmbeddingWorker")
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        asked = {"corpus": "xquad", "query": question, "timeout_ms": 1000}
        # Until the model is open in the gateway, the embedder is asked, which does not answer.
        wait_until(
            lambda: http.post("/v1/search", json=asked).status_code == 200,
            "the gateway's own model",
        )
        hits = shared_region.search(http, query=question)["hits"]
    finally:
        for pid in pids:
            # The region may have given it up meanwhile.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    assert hits == expected


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/search", {"query": "Who was Tesla?"}), ("/v1/answer", {"question": "Who was Tesla?"})],
)
def test_a_corpus_without_an_embedder_refuses_texts_and_says_what_to_do(
    http: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    reply = http.post(path, json={"corpus": "vectors-one", **body})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["code"] == "invalid_argument"
    assert "'vectors-one' brought its own vectors" in error["message"]
    assert "search it with a vector" in error["message"]
