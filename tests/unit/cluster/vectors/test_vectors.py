from __future__ import annotations

import math
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest

from cluster.errors import InvalidArgument
from cluster.vectors.checks import check_norms, check_vectors, normalized, norms, prepared
from cluster.vectors.metric import Metric


def test_numbers_become_contiguous_float32() -> None:
    given = np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3))
    for vectors in (given, given.tolist(), given.astype(np.int64)):
        checked = check_vectors(vectors, 3)
        assert checked.dtype == np.float32
        assert checked.flags.c_contiguous
        assert checked.tolist() == given.tolist()


@pytest.mark.parametrize(
    ("vectors", "field"),
    [
        ([[1.0, 2.0], [1.0]], "v"),
        ([1.0, 2.0], "v"),
        ([[["1"]]], "v"),
        ([["1", "2"]], "v"),
        ([[1.0, None]], "v"),
        ([[True, False]], "v"),
        ([], "v"),
        ([[]], "v"),
        ("text", "v"),
        (None, "v"),
        ([[1.0, 2.0, 3.0]], "v"),
        ([[1.0, 2.0], [math.nan, 0.0]], "v[1]"),
        ([[math.inf, 0.0]], "v[0]"),
        ([[1e300, 0.0]], "v[0]"),
        ([[1e30, 0.0]], "v[0]"),
        ([[3e38, 0.0]], "v[0]"),
        ([[10**400, 0.0]], "v"),
    ],
)
def test_what_is_no_vector_is_refused(vectors: npt.ArrayLike, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_vectors(vectors, 2, field=field[0])
    assert caught.value.field == field


def test_the_dimensions_are_named() -> None:
    with pytest.raises(InvalidArgument, match="must have 384 numbers, as the index has; got 2"):
        check_vectors([[1.0, 2.0]], 384)


def test_normalized_rows_do_not_depend_on_the_batch() -> None:
    vectors = np.random.default_rng(0).standard_normal((100, 37)).astype(np.float32)
    vectors[3] = 0.0
    vectors[4] *= 1e-30
    batch = normalized(vectors)
    assert batch.dtype == np.float32
    for i in range(100):
        assert batch[i].tobytes() == normalized(vectors[i : i + 1]).tobytes()
    assert not batch[3].any()
    assert norms(np.delete(batch, 3, axis=0)) == pytest.approx(1.0, abs=1e-6)


def test_many_vectors_take_little_memory_beside_the_result() -> None:
    vectors = np.random.default_rng(0).standard_normal((50_000, 32), dtype=np.float32)
    tracemalloc.start()
    try:
        normalized(vectors)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < 1.5 * vectors.nbytes


def test_only_cosine_normalises() -> None:
    vectors = np.array([[3.0, 4.0]], dtype=np.float32)
    assert prepared(vectors, Metric.INNER_PRODUCT) is vectors
    assert prepared(vectors, Metric.L2) is vectors
    assert prepared(vectors, Metric.COSINE).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]


def test_norms_over_nothing_raise_nothing() -> None:
    check_norms(norms(np.zeros((0, 3), dtype=np.float32)))
