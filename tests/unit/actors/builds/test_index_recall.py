"""What a build tells of an index: no average hides a hole, and what has one is built otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from actors.builds import shard as shard_build
from actors.builds.recall import RecallSample
from actors.builds.shard import ShardBuild, ShardPlan, build_shard
from actors.builds.tuning import Extent, candidates, choose, try_index
from actors.shards.index import ShardIndex
from actors.shards.vector_rows import OneRowEach, vector_numbers
from cluster.arrays import Float32Array, Int64Array
from cluster.catalog.manifests import ShardArtifact
from cluster.query.search import ShardQuery
from cluster.shards.index_parameters import AutoIndex, IndexKind, IndexParameters, NamedIndex
from cluster.shards.recall import HELD_OUT, MOVED, STORED, QueryKind, Recall, RecallStratum
from cluster.vectors.checks import normalized
from cluster.vectors.metric import Metric

DIMENSION = 64
NUM_ANSWERS = 60


def crowd_and_answers(
    num_crowds: int, crowd: int, apart: float, seed: int = 0
) -> tuple[Float32Array, Int64Array]:
    """Vectors of length one: crowds, whose vectors differ by about `apart` (0: not at all), and
    among them 60 others, with the rows of these.
    """
    rng = np.random.default_rng(seed)
    centres = normalized(rng.standard_normal((num_crowds, DIMENSION)).astype(np.float32))
    crowds = np.repeat(centres, crowd, axis=0)
    moves = apart / np.sqrt(DIMENSION) * rng.standard_normal(crowds.shape)
    others = rng.standard_normal((NUM_ANSWERS, DIMENSION))
    others /= np.linalg.norm(others, axis=1)[:, None]
    order = rng.permutation(len(crowds) + NUM_ANSWERS)
    vectors = np.concatenate([crowds + moves, others]).astype(np.float32)[order]
    return vectors, np.flatnonzero(order >= len(crowds))


def build(folder: Path, vectors: Float32Array, parameters: IndexParameters) -> ShardBuild:
    ids = [f"{i:05}" for i in range(len(vectors))]
    table = pa.table({"id": ids, "document": ids, "text": ids})
    return build_shard(table, vectors, ShardPlan(parameters), folder)


def opened(folder: Path, built: ShardBuild) -> ShardIndex:
    return ShardIndex.open(folder, built.parameters, DIMENSION)


def found_share(index: ShardIndex, vectors: Float32Array, answers: Int64Array) -> float:
    """Of the answers, those that are the best hit of a question near them."""
    rng = np.random.default_rng(9)
    moves = 0.1 / np.sqrt(DIMENSION) * rng.standard_normal((len(answers), DIMENSION))
    questions = normalized((vectors[answers] + moves).astype(np.float32))
    query = ShardQuery(corpus="c", index_version="v", vectors=questions, top_k=10)
    return float((index.search(query).rows[:, 0] == answers).mean())


@pytest.mark.parametrize(
    ("num_crowds", "crowd", "apart"),
    [(1, 1500, 1e-6), (1, 1500, 1e-3), (8, 200, 1e-6), (8, 200, 0.0), (1, 1500, 0.0)],
)
@pytest.mark.parametrize("kind", IndexKind)
@pytest.mark.parametrize("effort", ["given", "measured"])
def test_answers_beside_crowds_are_found_whatever_kind_was_asked_for(
    tmp_path: Path, effort: str, kind: IndexKind, num_crowds: int, crowd: int, apart: float
) -> None:
    vectors, answers = crowd_and_answers(num_crowds, crowd, apart)
    asked = NamedIndex(kind=kind, ef_construction=100)
    parameters = asked.parameters
    if effort == "given":
        parameters = parameters.model_copy(update={"target_recall": None})
    built = build(tmp_path, vectors, parameters)
    assert not built.recall.has_hole
    assert found_share(opened(tmp_path, built), vectors, answers) >= 0.95


def test_an_index_with_a_hole_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if equal vectors were not known to be equal: a graph over all of them.
    monkeypatch.setattr(shard_build, "vector_rows", lambda vectors: OneRowEach())
    vectors, answers = crowd_and_answers(1, 1500, 0.0)
    parameters = IndexParameters(kind=IndexKind.HNSW)
    built = build(tmp_path, vectors, parameters)
    assert (built.kind, built.recall.least) == (IndexKind.FLAT, 1.0)
    assert found_share(opened(tmp_path, built), vectors, answers) == 1.0


def test_a_few_vectors_far_from_the_crowd_ask_too(tmp_path: Path) -> None:
    vectors, answers = crowd_and_answers(1, 6000, 0.05)
    lonely = answers[:10]
    vectors = np.delete(vectors, answers[10:], axis=0)
    parameters = IndexParameters(kind=IndexKind.FLAT, metric=Metric.L2)
    build(tmp_path, vectors, parameters)
    sample = RecallSample.of_rows(
        ShardIndex.open(tmp_path, parameters, DIMENSION), vectors, parameters
    )
    asked = {tuple(query) for query in sample.queries.tolist()}
    kept = vectors[np.linalg.norm(vectors - np.median(vectors, axis=0), axis=1) > 0.5]
    assert len(kept) == len(lonely)
    assert {tuple(vector) for vector in kept.tolist()} <= asked
    # They are told apart from the crowd.
    sparse = [part for kind, quarter, part in sample.strata if (kind, quarter) == (STORED, 4)]
    assert {tuple(v) for v in kept.tolist()} <= {
        tuple(v) for v in sample.queries[sparse[0]].tolist()
    }


class Read(np.ndarray[Any, np.dtype[np.float32]]):
    """Vectors that note how many of them are read at once."""

    rows_max = 0

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, np.ndarray):
            Read.rows_max = max(Read.rows_max, len(rows))
        return super().__getitem__(rows)


def test_of_many_rows_some_are_drawn_that_lie_wherever_vectors_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    middles = normalized(rng.standard_normal((20, DIMENSION), dtype=np.float32))
    # The first is much larger than the others.
    groups = rng.permutation(np.concatenate([np.zeros(4000, np.int64), np.repeat(range(20), 50)]))
    noise = rng.standard_normal((len(groups), DIMENSION), dtype=np.float32)
    vectors = middles[groups] + np.float32(0.001) * noise
    parameters = IndexParameters(kind=IndexKind.FLAT, metric=Metric.L2)
    build(tmp_path, vectors, parameters)
    index = ShardIndex.open(tmp_path, parameters, DIMENSION)
    Read.rows_max = 0
    sample = RecallSample.of_rows(index, vectors.view(Read), parameters, apart_among_max=1000)
    assert Read.rows_max == 1000
    asked = np.linalg.norm(sample.queries[:, None] - middles[None], axis=2).argmin(axis=1)
    assert set(asked.tolist()) == set(range(20))


def stratum(queries: QueryKind, crowding: int, recall: float, best: float = 1.0) -> RecallStratum:
    return RecallStratum(
        queries=queries, crowding=crowding, num_queries=50, recall_at_10=recall, best_found=best
    )


@pytest.mark.parametrize(
    ("strata", "has_hole"),
    [
        ([stratum(STORED, 1, 0.96), stratum(STORED, 4, 0.9), stratum(MOVED, 1, 0.92)], False),
        # Little effort alone is no hole.
        ([stratum(STORED, 1, 0.6), stratum(MOVED, 4, 0.5, best=0.7)], False),
        ([stratum(STORED, 1, 1.0), stratum(STORED, 4, 0.6)], True),
        ([stratum(STORED, 1, 1.0), stratum(MOVED, 4, 0.0)], True),
        # With little effort, queries that were held out find unevenly.
        ([stratum(STORED, 1, 1.0), stratum(HELD_OUT, 4, 0.0)], False),
        # Recall is high, but some vectors cannot be found at all.
        ([stratum(STORED, 1, 0.99), stratum(STORED, 4, 0.97, best=0.96)], True),
        ([], False),
    ],
)
def test_what_a_hole_is(strata: list[RecallStratum], has_hole: bool) -> None:
    average = float(np.mean([s.recall_at_10 for s in strata])) if strata else 0.9
    recall = Recall(recall_at_10=average, strata=tuple(strata))
    assert recall.has_hole is has_hole
    assert recall.least == min((s.recall_at_10 for s in strata), default=0.9)


@pytest.mark.parametrize("apart", [0.0, 1e-6])
def test_auto_takes_a_kind_that_finds_enough_in_every_stratum(tmp_path: Path, apart: float) -> None:
    vectors, answers = crowd_and_answers(1, 1500, apart)
    asked = AutoIndex()
    vectors = normalized(vectors)
    _, firsts = np.unique(vector_numbers(vectors), return_index=True)
    sample, extent = vectors[firsts], Extent(num_rows=len(vectors), num_shards=1)
    trials = [try_index(sample, built, 0.95, extent) for built in candidates(asked, DIMENSION)]
    (chosen,) = (trial for trial in choose(trials, asked) if trial.is_chosen)
    assert chosen.recall_at_10_least is not None
    assert chosen.recall_at_10_least >= 0.95
    parameters = chosen.parameters.model_copy(update={"target_recall": asked.target_recall})
    built = build(tmp_path, vectors, parameters)
    index = opened(tmp_path, built)
    assert found_share(index, vectors, answers) >= 0.95


def test_manifests_of_shards_without_strata_keep_their_bytes() -> None:
    artifact = ShardArtifact(shard=0, num_rows=3, files=(), recall_at_10=0.9)
    assert b"strata" not in artifact.to_bytes()
    assert b"kind" not in artifact.to_bytes()
    assert artifact.recall.least == 0.9
    assert not artifact.recall.has_hole
