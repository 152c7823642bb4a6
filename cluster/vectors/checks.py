"""The conditions on a vector before it is stored or searched with: finite, of one length,
normalised.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cluster.arrays import Float32Array, Float64Array
from cluster.errors import InvalidArgument
from cluster.vectors.metric import Metric

NORM_MAX = 1e18
"""Longer vectors are refused: the square of a distance between two must stay a float32."""
_SQUARES_MAX = 0.9 * NORM_MAX**2
"""Below the square by more than its sum may be wrong by."""
_WIDE_ROWS = 1024


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
    if given.dtype != np.float32 or not given.flags.c_contiguous:
        with np.errstate(over="ignore"):
            given = np.ascontiguousarray(given, dtype=np.float32)
    check_lengths(given, field=field)
    return given


def check_lengths(vectors: Float32Array, *, field: str = "vectors") -> None:
    """Same as `check_norms`, for float32 [n, d], C-contiguous: all rows at once if possible."""
    if not are_short(vectors):
        check_norms(norms(vectors), field=field)


def are_short(vectors: Float32Array) -> bool:
    """True only where no norm is over NORM_MAX, and so no number NaN or infinite; C-contiguous."""
    # A sum of squares in float32, which BLAS makes without a warning. False for NaN and infinity.
    return float(np.vdot(vectors, vectors)) <= _SQUARES_MAX


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
    lengths = np.empty(len(vectors), dtype=np.float64)
    with np.errstate(invalid="ignore"):
        # Some at a time: all of a large shard's vectors as float64 would be twice their memory.
        for top in range(0, len(vectors), _WIDE_ROWS):
            wide = vectors[top : top + _WIDE_ROWS].astype(np.float64)
            wide *= wide
            wide.sum(axis=-1, out=lengths[top : top + _WIDE_ROWS])
    return np.sqrt(lengths, out=lengths)


def normalized(vectors: Float32Array) -> Float32Array:
    """float32 [n, d] of norm 1; a zero vector stays zero.

    Each row depends on itself only, so that a text's vector is the same alone and in a batch.
    """
    lengths = norms(vectors)
    lengths[lengths == 0.0] = 1.0
    # Divided as float64 and rounded as it is written, without all of the quotients in between.
    return np.divide(
        vectors, lengths[:, None], out=np.empty_like(vectors, dtype=np.float32), casting="same_kind"
    )


def prepared(vectors: Float32Array, metric: Metric) -> Float32Array:
    """The vectors as an index of this metric stores them and is asked with them."""
    return normalized(vectors) if metric is Metric.COSINE else vectors
