"""Arrays that grow at their end at a cost that is constant for each row, on average."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T", bound=np.generic)


def with_room(array: npt.NDArray[T], num_rows: int) -> npt.NDArray[T]:
    """The array, or a copy that is twice as long, or as long as is needed. What comes after the
    rows of the array is anything.
    """
    if num_rows <= len(array):
        return array
    shape = (max(num_rows, 2 * len(array)), *array.shape[1:])
    longer: npt.NDArray[T] = np.empty(shape, dtype=array.dtype)
    longer[: len(array)] = array
    return longer
