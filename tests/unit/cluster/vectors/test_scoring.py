from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from cluster.arrays import Float32Array
from cluster.errors import Corrupt
from cluster.vectors.checks import norms
from cluster.vectors.metric import Metric
from cluster.vectors.scoring import best, error_bound, scan, score_rows


def normal(*shape: int, seed: int = 0) -> Float32Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def true_score(query: Float32Array, vector: Float32Array, metric: Metric) -> float:
    pairs = [(float(q), float(x)) for q, x in zip(query, vector, strict=True)]
    if metric is Metric.L2:
        return -math.fsum((q - x) ** 2 for q, x in pairs)
    return math.fsum(q * x for q, x in pairs)


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("dimension", [1, 2, 7, 8, 129, 384, 9000])
def test_a_score_depends_on_its_pair_alone(metric: Metric, dimension: int) -> None:
    queries, stored = normal(5, dimension), normal(40, dimension, seed=1)
    rows = np.random.default_rng(2).integers(0, 40, (5, 33))
    together = score_rows(queries, stored, rows, metric)
    for i, j in [(0, 0), (1, 7), (4, 32), (3, 16)]:
        row = rows[i, j]
        alone = score_rows(queries[i : i + 1], stored[row : row + 1], np.array([[0]]), metric)
        assert alone.tobytes() == together[i, j].tobytes()
        expected = true_score(queries[i], stored[row], metric)
        assert together[i, j] == pytest.approx(expected, rel=1e-6, abs=1e-6 * dimension**0.5)


def test_missing_rows_score_worst_and_a_row_with_itself_scores_zero_not_minus_zero() -> None:
    stored = normal(3, 4)
    scores = score_rows(stored[:1], stored, np.array([[0, -1]]), Metric.L2)
    assert scores.tolist() == [[0.0, -np.inf]]
    assert not np.signbit(scores[0, 0])


def test_best_breaks_ties_by_row() -> None:
    scores = np.array([[1.0, 2.0, 2.0, -np.inf, 2.0]], dtype=np.float32)
    found, rows = best(scores, np.array([[4, 9, 3, -1, 5]]), 4)
    assert rows.tolist() == [[3, 5, 9, 4]]
    assert found.tolist() == [[2.0, 2.0, 2.0, 1.0]]


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("shift", [0.0, 1000.0])
@pytest.mark.parametrize("chosen", [None, 300])
def test_scan_is_scoring_everything(metric: Metric, shift: float, chosen: int | None) -> None:
    # Far from the origin, close together and doubled: float32 alone would order these at random.
    stored = np.repeat(normal(400, 16) * np.float32(0.01) + np.float32(shift), 3, axis=0)
    queries = stored[::100] + np.float32(0.001)
    live = np.arange(len(stored))
    rows = None
    if chosen is not None:
        rows = live = np.sort(np.random.default_rng(3).choice(live, chosen, replace=False))
    everything = np.tile(live, (len(queries), 1))
    for k in (1, 10, 299, 300):
        expected = best(score_rows(queries, stored, everything, metric), everything, k)
        found = scan(queries, stored, rows, k, metric, float(norms(stored).max()))
        assert found[0].tobytes() == expected[0].tobytes()
        assert found[1].tolist() == expected[1].tolist()


def test_a_scan_in_blocks_finds_what_each_query_finds_alone() -> None:
    # More rows than a block of the scan has, and more queries than one pass over these rows takes.
    stored, queries = normal(2500, 8), normal(2000, 8, seed=1)
    norm_max = float(norms(stored).max())
    scores, rows = scan(queries, stored, None, 5, Metric.L2, norm_max)
    for i in (0, 1676, 1677, 1999):
        alone = scan(queries[i : i + 1], stored, None, 5, Metric.L2, norm_max)
        assert (scores[i].tobytes(), rows[i].tolist()) == (alone[0].tobytes(), alone[1][0].tolist())


class Watched(np.ndarray[Any, np.dtype[np.float32]]):
    """Counts how often its first rows are read as a block."""

    passes = 0

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice) and key.start == 0:
            Watched.passes += 1
        return super().__getitem__(key)


def test_a_scan_of_many_rows_reads_them_for_several_queries_at_once() -> None:
    # So many that all scores of more than 13 queries have no room: 16 are taken at once.
    stored, queries = normal(300_000, 4), normal(40, 4, seed=1)
    Watched.passes = 0
    scan(queries, stored.view(Watched), None, 5, Metric.L2, float(norms(stored).max()))
    assert Watched.passes == 3


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_the_error_bound_holds(shift: float) -> None:
    queries = normal(20, 384) + np.float32(shift)
    stored = normal(200, 384, seed=1) + np.float32(shift)
    rows = np.tile(np.arange(200), (20, 1))
    bound = error_bound(norms(queries), float(norms(stored).max()), 384)[:, None]
    products = queries @ stored.T
    squares = (stored * stored).sum(axis=1)[None, :]
    l2 = 2 * products - squares - (queries * queries).sum(axis=1)[:, None]
    for metric, approximate in ((Metric.INNER_PRODUCT, products), (Metric.L2, l2)):
        exact = score_rows(queries, stored, rows, metric)
        assert (np.abs(approximate - exact.astype(np.float64)) <= bound).all()


@pytest.mark.parametrize("damage", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("metric", Metric)
def test_damaged_vectors_are_found_out(damage: float, metric: Metric) -> None:
    stored, queries = normal(20, 4), normal(2, 4, seed=1)
    stored[7, 2] = damage
    # An inner product with a finite vector, however long, can be finite.
    if damage < np.inf and metric is not Metric.L2:
        queries *= np.float32(1e10)
    with pytest.raises(Corrupt):
        score_rows(queries, stored, np.array([[7], [7]]), metric)
    if np.isnan(damage):
        with pytest.raises(Corrupt):
            scan(queries, stored, None, 3, metric, 10.0)
