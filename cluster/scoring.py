"""The one place where scores are computed, and exact search on top of it.

Faiss and BLAS choose their kernels by batch size, number of threads and processor, so their results
differ in the last bits; a tie may then come out one way in one region and the other way in another.
So they only propose candidates. A score that leaves the process is computed here: products in
float64 (exact, as both factors are float32), summed by NumPy over one contiguous row in an order
that depends on the length of the row alone, rounded once to float32. A score is thus a function of
the two vectors, and the order (score descending, row ascending) a function of the stored data.

What a float32 kernel can be wrong by is bounded by `error_bound`, whatever its order of summation;
so candidates of such a kernel that stand clear of the cut by the bound are proven to be complete.
"""

from __future__ import annotations

import numpy as np

from cluster.arrays import Float32Array, Float64Array, Int64Array
from cluster.errors import Corrupt
from cluster.metric import Metric
from cluster.vectors import norms

# Elements of a block of products: 0.5 MB of float64 stay in the second-level cache (blocks of
# 10 MB took twice the time).
_BLOCK_ELEMENTS = 1 << 16
# Elements of the matrix of approximate scores in `scan`: 16 MB of float32, more only where that is
# less than so many queries. Each pass reads all vectors, which for fewer takes longer than the
# products: 64 queries over 300,000 x 384 took 1.7 s of the CPU by fours, and 0.67 s by sixteens.
_SCAN_ELEMENTS = 1 << 22
_SCAN_QUERIES_MIN = 16
# Rows of a block of the scan; larger matrices make OpenBLAS wake its threads, which costs more than
# they save.
_SCAN_ROWS = 1024
_FLOAT32_UNIT = 2.0**-24


def score_rows(
    queries: Float32Array, stored: Float32Array, rows: Int64Array, metric: Metric
) -> Float32Array:
    """float32 [n, m]: the score of query i with stored row `rows[i, j]`; -inf where that is < 0.

    queries: float32 [n, d]; stored: float32 [N, d]; rows: int64 [n, m]. Raises Corrupt when a
    stored vector is not finite: none was when they were written.
    """
    # A vector that is not finite is found at the end, by its score.
    with np.errstate(over="ignore", invalid="ignore"):
        scores = _wide_scores(queries, stored, rows, metric).astype(np.float32)
    if not np.isfinite(scores).all():
        raise Corrupt("a stored vector is not finite")
    scores[rows < 0] = -np.inf
    return scores


def _wide_scores(
    queries: Float32Array, stored: Float32Array, rows: Int64Array, metric: Metric
) -> Float64Array:
    num_queries, num_rows = rows.shape
    scores = np.empty(rows.shape, dtype=np.float64)
    pairs = max(1, _BLOCK_ELEMENTS // queries.shape[1])
    across = min(max(1, num_rows), pairs)
    down = max(1, pairs // across)
    for top in range(0, num_queries, down):
        query = queries[top : top + down, None, :].astype(np.float64)
        for left in range(0, num_rows, across):
            block = (slice(top, top + down), slice(left, left + across))
            # Widened once and then worked on in place: half the time of a ufunc that is told the
            # type of its result, and so casts piece by piece.
            products = stored[rows[block]].astype(np.float64)
            if metric is Metric.L2:
                products -= query
                products *= products
            else:
                products *= query
            products.sum(axis=-1, out=scores[block])
    # Subtracted from zero rather than negated, so that the best score is 0.0 and not -0.0.
    return np.subtract(0.0, scores) if metric is Metric.L2 else scores


def best(scores: Float32Array, rows: Int64Array, k: int) -> tuple[Float32Array, Int64Array]:
    """The best k columns of each line, by (score descending, row ascending)."""
    order = np.lexsort((rows, -scores))[:, :k]
    line = np.arange(len(order))[:, None]
    return scores[line, order], rows[line, order]


def error_bound(query_norms: Float64Array, norm_max: float, dimension: int) -> Float64Array:
    """float64 [n]: how far a score from any float32 kernel may be from the true one.

    The textbook bound for a sum of `dimension` products in any order, for the form of a squared
    distance that loses most, |q|^2 + |x|^2 - 2qx; inner products keep within it with room to spare.
    """
    relative = 1.01 * (dimension + 8) * _FLOAT32_UNIT
    bound: Float64Array = relative * (query_norms + norm_max) ** 2 + 1e-30
    return bound


def scan(
    queries: Float32Array,
    stored: Float32Array,
    rows: Int64Array | None,
    k: int,
    metric: Metric,
    norm_max: float,
) -> tuple[Float32Array, Int64Array]:
    """Exact search among `rows` (ascending; None means all): scores [n, k] and rows [n, k], best
    first by (score descending, row ascending). k is at most the number of rows.
    """
    num_rows = stored.shape[0] if rows is None else len(rows)
    scores = np.empty((len(queries), k), dtype=np.float32)
    found = np.empty((len(queries), k), dtype=np.int64)
    bounds = error_bound(norms(queries), norm_max, queries.shape[1])
    step = max(_SCAN_QUERIES_MIN, _SCAN_ELEMENTS // max(1, num_rows))
    for top in range(0, len(queries), step):
        batch = queries[top : top + step]
        approximate = _approximate_scores(batch, stored, rows, metric)
        if k < num_rows:
            # The true k-th score is at least the approximate one less the bound, and whatever
            # reaches it has an approximate score of at least that less the bound again.
            bars = np.partition(approximate, num_rows - k, axis=1)[:, num_rows - k]
        else:
            bars = np.full(len(batch), -np.inf, dtype=np.float32)
        for i, bar in enumerate(bars):
            # Turned round, so that NaN stays in and is found out when it is scored.
            near = np.flatnonzero(~(approximate[i] < float(bar) - 2.0 * bounds[top + i]))
            candidates = (near if rows is None else rows[near])[None, :]
            exact = score_rows(batch[i : i + 1], stored, candidates, metric)
            scores[top + i], found[top + i] = (line[0] for line in best(exact, candidates, k))
    return scores, found


def _approximate_scores(
    queries: Float32Array, stored: Float32Array, rows: Int64Array | None, metric: Metric
) -> Float32Array:
    """float32 [n, len(rows)] by matrix product, right within `error_bound`."""
    num_rows = stored.shape[0] if rows is None else len(rows)
    approximate = np.empty((len(queries), num_rows), dtype=np.float32)
    # A row that overflows is damaged, and `score_rows` refuses it.
    with np.errstate(over="ignore", invalid="ignore"):
        _fill_approximate(approximate, queries, stored, rows, metric)
    return approximate


def _fill_approximate(
    approximate: Float32Array,
    queries: Float32Array,
    stored: Float32Array,
    rows: Int64Array | None,
    metric: Metric,
) -> None:
    for left in range(0, approximate.shape[1], _SCAN_ROWS):
        block = slice(left, left + _SCAN_ROWS)
        vectors = stored[block] if rows is None else stored[rows[block]]
        np.matmul(queries, vectors.T, out=approximate[:, block])
        if metric is Metric.L2:
            approximate[:, block] *= 2.0
            approximate[:, block] -= np.einsum("md,md->m", vectors, vectors)
    if metric is Metric.L2:
        approximate -= np.einsum("nd,nd->n", queries, queries)[:, None]
