"""What a vector must be before it is stored or searched with: finite, of one length, normalised."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from cluster.errors import InvalidArgument
from cluster.manifests import Metric

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

NORM_MAX = 1e18
"""Longer vectors are refused: the square of a distance between two must stay a float32."""


def check_vectors(
    vectors: npt.ArrayLike, dimension: int | None = None, *, field: str = "vectors"
) -> Float32Array:
    """The vectors as float32 [n, d], C-contiguous, n >= 1.

    Raises InvalidArgument, naming `field` and the row, for what is not a list of equally long lists
    of numbers, for another length than `dimension`, for NaN, infinity and norms over NORM_MAX.
    """
    try:
        given = np.asarray(vectors)
    except (ValueError, TypeError, OverflowError):
        raise InvalidArgument("must be lists of numbers, all of one length", field) from None
    if given.dtype.kind not in "fiu" or given.ndim != 2:
        raise InvalidArgument("must be a list of lists of numbers, all of one length", field)
    if given.shape[0] == 0 or given.shape[1] == 0:
        raise InvalidArgument("must not be empty", field)
    if dimension is not None and given.shape[1] != dimension:
        raise InvalidArgument(
            f"must have {dimension} numbers, as the index has; got {given.shape[1]}", field
        )
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(given, dtype=np.float32)
    check_lengths(converted, field=field)
    return converted


def check_lengths(vectors: Float32Array, *, field: str = "vectors") -> None:
    """As `check_norms`, for float32 [n, d]: all rows at once where that will do."""
    largest = np.maximum.reduce(np.abs(vectors), axis=None, initial=0.0)
    # No norm is more than that. False for NaN, too: then each row is looked at.
    if not float(largest) * math.sqrt(vectors.size) <= NORM_MAX:
        check_norms(norms(vectors), field=field)


def check_norms(lengths: Float64Array, *, field: str = "vectors") -> None:
    """Raises InvalidArgument for the first norm that is NaN, infinite or over NORM_MAX."""
    valid = lengths <= NORM_MAX
    if not valid.all():
        row = int(np.argmin(valid))
        raise InvalidArgument(
            f"must hold finite numbers, with a norm of at most {NORM_MAX:g}", f"{field}[{row}]"
        )


def norms(vectors: Float32Array) -> Float64Array:
    """float64 [n]: Euclidean norms. Each depends on its own row only, not on the batch."""
    with np.errstate(invalid="ignore"):
        wide = vectors.astype(np.float64)
        wide *= wide
        lengths: Float64Array = np.sqrt(wide.sum(axis=-1))
        return lengths


def normalized(vectors: Float32Array) -> Float32Array:
    """float32 [n, d] of norm 1; a zero vector stays zero.

    Each row depends on itself only, so that a text's vector is the same alone and in a batch.
    """
    lengths = norms(vectors)
    lengths[lengths == 0.0] = 1.0
    return (vectors / lengths[:, None]).astype(np.float32)


def prepared(vectors: Float32Array, metric: Metric) -> Float32Array:
    """The vectors as an index of this metric stores them and is asked with them."""
    return normalized(vectors) if metric is Metric.COSINE else vectors
