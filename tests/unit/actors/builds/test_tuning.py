"""`index: auto`: what is tried, what is measured, and which one is taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actors.builds.tuning import Extent, candidates, choose, try_index
from actors.shards.faiss_build import num_lists
from cluster.arrays import Float32Array
from cluster.config import load_settings
from cluster.errors import InvalidArgument
from cluster.shards.index_parameters import (
    AutoIndex,
    IndexKind,
    IndexParameters,
    IndexTrial,
    NamedIndex,
)
from cluster.vectors.checks import prepared
from cluster.vectors.metric import Metric

DIMENSION = 16
ALL_OF_IT = Extent(num_rows=2000, num_shards=1)


def clustered(num_rows: int) -> Float32Array:
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((40, DIMENSION))
    noise = 0.6 * rng.standard_normal((num_rows, DIMENSION))
    return (centres[rng.integers(0, 40, num_rows)] + noise).astype(np.float32)


def trial(kind: IndexKind, recall: float, query_us: float, memory_bytes: int) -> IndexTrial:
    return IndexTrial(
        parameters=IndexParameters(kind=kind),
        recall_at_10=(1.0 + recall) / 2,
        recall_at_10_least=recall,
        query_us=query_us,
        memory_bytes=memory_bytes,
    )


TRIALS = (
    trial(IndexKind.FLAT, 1.0, 900.0, 4000),
    trial(IndexKind.IVF_FLAT, 0.96, 105.0, 4100),
    trial(IndexKind.IVF_SQ, 0.95, 109.0, 1200),
    trial(IndexKind.IVF_PQ, 0.91, 60.0, 300),
    trial(IndexKind.HNSW, 0.97, 100.0, 6000),
)


@pytest.mark.parametrize(
    ("target_recall", "memory_bytes_max", "chosen"),
    [
        # Of the three that are as quick the smallest, though it is the slowest of them.
        (0.95, None, IndexKind.IVF_SQ),
        (0.96, None, IndexKind.IVF_FLAT),
        (0.97, None, IndexKind.HNSW),
        (0.97, 5000, IndexKind.FLAT),
        (0.9, None, IndexKind.IVF_PQ),
        # None reaches it: the nearest.
        (0.95, 1000, IndexKind.IVF_PQ),
        (0.99, 1300, IndexKind.IVF_SQ),
    ],
)
def test_the_cheapest_that_is_good_enough_is_chosen(
    target_recall: float, memory_bytes_max: int | None, chosen: IndexKind
) -> None:
    asked = AutoIndex(target_recall=target_recall, memory_bytes_max=memory_bytes_max)
    table = choose(TRIALS, asked)
    assert [t.parameters.kind for t in table if t.is_chosen] == [chosen]
    assert [t.model_copy(update={"is_chosen": False}) for t in table] == list(TRIALS)


def test_memory_for_no_kind_is_refused_with_what_it_takes() -> None:
    with pytest.raises(InvalidArgument, match="300 bytes") as caught:
        choose(TRIALS, AutoIndex(memory_bytes_max=299))
    assert caught.value.field == "index.memory_bytes_max"


@pytest.mark.parametrize("metric", Metric)
def test_every_kind_is_tried_and_found_to_do_what_it_does(metric: Metric) -> None:
    asked = AutoIndex(metric=metric, target_recall=0.95, seed=7)
    sample = prepared(clustered(2000), metric)
    tried = candidates(asked, DIMENSION)
    assert {p.kind for p in tried} == {*IndexKind}
    assert {(p.metric, p.seed) for p in tried} == {(metric, 7)}
    for built in tried:
        found = try_index(sample, built, 0.95, ALL_OF_IT)
        assert found.recall_at_10_least is not None
        assert found.recall_at_10 >= found.recall_at_10_least >= 0.95
        assert found.query_us > 0
        bytes_per_row = found.memory_bytes / 2000
        match built.kind:
            case IndexKind.FLAT:
                assert found.recall_at_10 == 1.0
                assert 64 <= bytes_per_row < 65
            case IndexKind.HNSW:
                assert 16 <= found.parameters.ef_search <= 64
                assert bytes_per_row > 64 + 2 * 4 * built.hnsw_m
            case IndexKind.IVF_FLAT | IndexKind.IVF_SQ | IndexKind.IVF_PQ:
                assert 1 < found.parameters.nprobe < num_lists(2000, None)
                assert 8 < bytes_per_row < (80 if built.kind is IndexKind.IVF_FLAT else 35)


def test_what_was_measured_is_scaled_to_a_shard() -> None:
    sample = clustered(2000)
    flat, lists = (
        IndexParameters(kind=kind, metric=Metric.L2) for kind in (IndexKind.FLAT, IndexKind.IVF_SQ)
    )
    small, large = ALL_OF_IT, Extent(num_rows=800_000, num_shards=4)
    here, there = (try_index(sample, flat, 0.95, extent) for extent in (small, large))
    assert there.memory_bytes == pytest.approx(400 * here.memory_bytes, rel=0.01)
    assert there.query_us > 20 * here.query_us
    here, there = (try_index(sample, lists, 0.95, extent) for extent in (small, large))
    share = here.parameters.nprobe / num_lists(2000, None)
    assert there.parameters.nprobe / num_lists(200_000, None) == pytest.approx(share, rel=0.3)
    assert there.parameters.nlist is None


@pytest.mark.parametrize("num_rows", [1, 2, 6, 60])
def test_a_tiny_corpus_can_be_tuned_too(num_rows: int) -> None:
    asked = AutoIndex()
    sample = prepared(clustered(num_rows), asked.metric)
    extent = Extent(num_rows=num_rows, num_shards=2)
    trials = [try_index(sample, built, 0.95, extent) for built in candidates(asked, DIMENSION)]
    assert sum(t.is_chosen for t in choose(trials, asked)) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", AutoIndex()),
        ("{kind: auto}", AutoIndex()),
        ("{kind: auto, target_recall: 0.9, metric: l2}", AutoIndex(target_recall=0.9, metric="l2")),
        ("{kind: auto, recall: 0.9}", AutoIndex(target_recall=0.9)),
        ("{kind: IVFPQ, pq_m: 8}", NamedIndex(kind=IndexKind.IVF_PQ, pq_m=8)),
        ("{kind: HNSWSQ, recall: 0.9}", NamedIndex(kind=IndexKind.HNSW_SQ, target_recall=0.9)),
        ("{kind: IVFFlat, nprobe: 3}", NamedIndex(kind=IndexKind.IVF_FLAT, nprobe=3)),
        ("{}", NamedIndex()),
    ],
)
def test_settings_ask_for_a_kind_or_for_auto(
    tmp_path: Path, text: str, expected: AutoIndex | NamedIndex
) -> None:
    file = tmp_path / "regions.yaml"
    file.write_text(f"corpora: {{c: {{index: {text}}}}}")
    assert load_settings(file).corpus("c").index == expected


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("{kind: auto, nprobe: 3}", "corpora.c.index.nprobe"),
        ("{kind: auto, target_recall: 2}", "corpora.c.index.target_recall"),
        ("{kind: IVFPQ, recall: 2}", "corpora.c.index.target_recall"),
        ("{kind: HNSW, recall: 0.9, target_recall: 0.9}", "corpora.c.index.recall"),
        ("{kind: AUTO}", "corpora.c.index.kind"),
        ("best", "corpora.c.index"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_by_name(
    tmp_path: Path, text: str, key: str
) -> None:
    file = tmp_path / "regions.yaml"
    file.write_text(f"corpora: {{c: {{index: {text}}}}}")
    with pytest.raises(InvalidArgument) as caught:
        load_settings(file)
    assert caught.value.field == key


def test_auto_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYGION_CORPORA", '{"c": {"index": "auto"}}')
    assert load_settings().corpus("c").index == AutoIndex()
    monkeypatch.setenv("RAYGION_CORPORA", '{"c": {"index": {"kind": "auto"}}}')
    monkeypatch.setenv("RAYGION_CORPORA__C__INDEX__TARGET_RECALL", "0.9")
    assert load_settings().corpus("c").index == AutoIndex(target_recall=0.9)
